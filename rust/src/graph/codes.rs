//! Vectors as 8-bit codes, and as one bit a coordinate: what the walk over the graph scores.
//!
//! An item's vector x (for cosines over its length; all scaled by one power of two) is centred and rotated, z = Q (σx − c). With the query's
//! part w = Q t(σq − βc) its score, larger is better, is
//!
//! ```text
//! s = <w, z> + β o + γ a        o = <c, z> (ip, cosine) or −‖z‖² / 2 (l2);  β = <q, c> / ‖c‖² or 1, so that w is short;
//!                               a = √(M² − ‖x‖²), γ = the same of an item that asks (ip), 0 for a query,
//! ```
//!
//! which ranks as the metric does: a query's score is off by a constant and a factor. For inner products the coordinate a makes all
//! items equally long [1], so that the neighbours of an item are near it rather than long.
//!
//! * **Codes.** `z ≈ f (m u − l)`, u of 4 bits, or of 8 below [`LEAST_SIGNED`] coordinates; queries `w ≈ g v`, signed bytes v. Products are
//!   summed exactly, hence the same score on every processor. The rotation makes coordinates nearly normal, for which steps of
//!   [`STEP`] deviations lose least [3]: a score is off by 0.11 ‖w‖ ‖z‖ / √d. f is then such that `<z, f (m u − l)> = ‖z‖²`.
//! * **Signs.** b = sign(z) estimates `<w, z> ≈ e <w, b>, e = ‖z‖² / ‖z‖₁`, without bias and with deviation 0.75 ‖w‖ ‖z‖ / √d, which is
//!   0.6 e ‖w‖ [2]. w has 3 bits a coordinate for it ([`crate::simd::signs`]). Vertices whose estimate cannot reach
//!   the pool are passed over before their codes are read; 64 bytes for up to 384 coordinates, a cache line.
//!
//! [1] Bachrach et al., Speeding up the Xbox recommender system, RecSys 2014.
//! [2] Gao & Long, RaBitQ, arXiv:2405.12497, §3.2 and theorem 3.2.
//! [3] Max, Quantizing for minimum distortion, IRE Trans. Inf. Theory 6, 1960, table II (16 levels).

use super::query::Query;
use super::rotate::Rotation;
use crate::exact::{Metric, dot};
use crate::simd::Simd;
use crate::simd::bytes::{dot_bytes, dot_half_bytes};

/// Coordinates from which signs are kept: below, an estimate is too wide to exclude much, and codes are short.
const LEAST_SIGNED: usize = 128;
/// Width of a level of 4 bits, in deviations of a coordinate.
const STEP: f64 = 0.335;
/// What 4 bits are off by then, in deviations.
const HALF_BYTE_ERROR: f64 = 0.107;
/// 2^50: coordinates are cut here, so that no score overflows.
const LARGEST: f64 = (1u64 << 50) as f64;

/// Where things lie in an item's two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) d: usize,
    /// Bytes of a code record, a multiple of a cache line: d codes, and the scalars at its end where there are no signs. Where there
    /// are, code j is half of byte j modulo this, the lower half of the first so many.
    pub(super) code_bytes: usize,
    /// Bytes of a sign record, likewise, or 0: bits, scalars.
    pub(super) sign_bytes: usize,
}

/// What an item's score needs besides its codes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Scalars {
    /// f
    pub(super) unit: f32,
    /// o
    pub(super) offset: f32,
    /// a
    pub(super) lift: f32,
    /// e
    pub(super) estimate: f32,
}

const SCALARS: usize = size_of::<Scalars>();
/// Their places.
pub(super) const UNIT: usize = std::mem::offset_of!(Scalars, unit) / size_of::<f32>();
pub(super) const OFFSET: usize = std::mem::offset_of!(Scalars, offset) / size_of::<f32>();
pub(super) const LIFT: usize = std::mem::offset_of!(Scalars, lift) / size_of::<f32>();
pub(super) const ESTIMATE: usize = std::mem::offset_of!(Scalars, estimate) / size_of::<f32>();

impl Layout {
    pub(super) fn new(d: usize) -> Layout {
        let signed = d >= LEAST_SIGNED;
        Layout {
            d,
            code_bytes: if signed { d.div_ceil(2) } else { d + SCALARS }.next_multiple_of(64),
            sign_bytes: if signed { (d.div_ceil(64) * 8 + SCALARS).next_multiple_of(64) } else { 0 },
        }
    }

    /// Whether codes have 4 bits rather than 8.
    #[inline(always)]
    fn halved(&self) -> bool {
        self.sign_bytes > 0
    }

    /// Coordinates that a code record has room for.
    pub(super) fn room(&self) -> usize {
        if self.halved() { 2 * self.code_bytes } else { self.code_bytes }
    }

    /// (m, l)
    #[inline(always)]
    fn levels(&self) -> (i32, i32) {
        if self.halved() { (2, 15) } else { (1, 128) }
    }

    /// m u − l, and 0 beyond d (`room`); what products with them are off by where the other's are u: −l Σ.
    #[inline(always)]
    pub(super) fn signed(&self, code: &[u8], to: &mut [i8]) -> i32 {
        if self.halved() {
            let (low, high) = to.split_at_mut(self.code_bytes);
            for ((low, high), u) in low.iter_mut().zip(high).zip(code) {
                (*low, *high) = (2 * (u & 15) as i8 - 15, 2 * (u >> 4) as i8 - 15);
            }
        } else {
            to.iter_mut().zip(code).for_each(|(to, u)| *to = (u ^ 0x80) as i8);
        }
        to[self.d..].fill(0);
        self.shift(to)
    }

    /// Σ (m u − l) v of pairs of a record's u and v (`room`, 0 beyond d) with its `shift`, −l Σ v.
    ///
    /// # Safety
    /// `S` is there; all are that long.
    #[inline(always)]
    pub(super) unsafe fn products<S: Simd, const N: usize>(
        &self,
        u: [*const u8; N],
        v: [*const i8; N],
        shift: [i32; N],
    ) -> [i32; N] {
        let (m, _) = self.levels();
        // SAFETY: the caller's promise.
        let mut products = unsafe {
            if self.halved() {
                dot_half_bytes::<S, N>(u, v, self.code_bytes)
            } else {
                dot_bytes::<S, N>(u, v, self.code_bytes)
            }
        };
        products.iter_mut().zip(shift).for_each(|(sum, shift)| *sum = m * *sum + shift);
        products
    }

    /// −l Σ v
    pub(super) fn shift(&self, v: &[i8]) -> i32 {
        -self.levels().1 * v.iter().map(|&v| i32::from(v)).sum::<i32>()
    }

    /// Deviation of an item's codes in all, for ‖z‖ = 1.
    pub(super) fn code_error(&self) -> f64 {
        let d = self.d as f64;
        // Bytes end at the largest of d normal coordinates, some √(2 log 2d) deviations; roundings are uniform in a step.
        let bytes = (2.0 * (2.0 * d).ln()).sqrt() / 127.0 / 12f64.sqrt();
        (if self.halved() { HALF_BYTE_ERROR } else { bytes }) / d.sqrt()
    }

    /// Where the scalars are in a record (of signs, or else of codes): its last bytes.
    pub(super) fn scalars_at(&self) -> usize {
        (if self.sign_bytes > 0 { self.sign_bytes } else { self.code_bytes }) - SCALARS
    }

    /// Another a in a record that has scalars.
    pub(super) fn set_lift(&self, record: &mut [u8], lift: f32) {
        let at = record.len() - SCALARS + LIFT * size_of::<f32>();
        record[at..at + size_of::<f32>()].copy_from_slice(&lift.to_le_bytes());
    }
}

/// How vectors become codes.
pub(super) struct Coder {
    pub(super) metric: Metric,
    pub(super) layout: Layout,
    /// σ
    pub(super) scale: f64,
    /// c (d)
    pub(super) center: Vec<f32>,
    /// M², of scaled vectors
    pub(super) largest_square: f64,
    pub(super) center_square: f64,
    pub(super) rotation: Rotation,
    /// ‖z‖ of the items that it was made for, as a root mean square.
    pub(super) typical_norm: f64,
}

impl Coder {
    /// For vectors like `rows` (n, d): their scale and centre.
    pub(super) fn of(metric: Metric, rows: &[f32], d: usize, seed: u64) -> Coder {
        let n = rows.len() / d;
        let largest = rows.chunks_exact(d).map(|x| dot(x, x)).fold(0.0, f64::max);
        let scale =
            if metric == Metric::Cosine || largest == 0.0 { 1.0 } else { (-0.5 * largest.log2()).floor().exp2() };
        let (mut sums, mut squares) = (vec![0f64; d], 0.0);
        for x in rows.chunks_exact(d) {
            let unit = unit_of(metric, scale, dot(x, x));
            squares += dot(x, x) * unit * unit;
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += f64::from(*x) * unit;
            }
        }
        let center: Vec<f32> = sums.into_iter().map(|s| (s / n.max(1) as f64) as f32).collect();
        let typical = (squares / n.max(1) as f64 - dot(&center, &center)).max(0.0).sqrt();
        Coder::new(metric, d, seed, scale, center, largest * scale * scale, typical)
    }

    pub(super) fn new(
        metric: Metric,
        d: usize,
        seed: u64,
        scale: f64,
        center: Vec<f32>,
        largest_square: f64,
        typical_norm: f64,
    ) -> Coder {
        let center_square = dot(&center, &center);
        let rotation = Rotation::new(d, seed);
        let layout = Layout::new(d);
        Coder { metric, layout, scale, center, largest_square, center_square, rotation, typical_norm }
    }

    /// a of an item with the length √`square`.
    pub(super) fn lift(&self, square: f64) -> f32 {
        match self.metric {
            Metric::InnerProduct => (self.largest_square - square * self.scale * self.scale).max(0.0).sqrt() as f32,
            _ => 0.0,
        }
    }

    /// The records of item `x`; `query` lends its workspace.
    #[inline(always)]
    pub(super) fn encode(&self, x: &[f32], code: &mut [u8], sign: &mut [u8], query: &mut Query) {
        let square = dot(x, x);
        let unit = unit_of(self.metric, self.scale, square);
        let z = &mut query.vector;
        for ((z, x), c) in z.iter_mut().zip(x).zip(&self.center) {
            *z = (f64::from(*x) * unit - f64::from(*c)).clamp(-LARGEST, LARGEST) as f32;
        }
        let z_square = dot(z, z);
        let offset = if self.metric == Metric::SquaredL2 { -0.5 * z_square } else { dot(z, &self.center) };
        self.rotation.apply(z);
        let unit = if self.layout.halved() { half_bytes(z, z_square, code) } else { bytes(z, code) };
        let mut absolute = 0f64;
        if self.layout.sign_bytes > 0 {
            absolute = z.iter().map(|z| f64::from(z.abs())).sum();
            for (byte, z) in sign.iter_mut().zip(z.chunks(8)) {
                *byte = z.iter().enumerate().fold(0, |b, (t, z)| b | u8::from(*z > 0.0) << t);
            }
        }
        let scalars = Scalars {
            unit,
            offset: offset as f32,
            lift: self.lift(square),
            estimate: if absolute > 0.0 { (z_square / absolute) as f32 } else { 0.0 },
        };
        let record = if self.layout.sign_bytes > 0 { sign } else { code };
        let at = record.len() - SCALARS;
        for (to, value) in
            record[at..].chunks_exact_mut(4).zip([scalars.unit, scalars.offset, scalars.lift, scalars.estimate])
        {
            to.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// 1 / step, 0 where that says nothing.
pub(super) fn inverse_of(step: f32) -> f32 {
    let inverse = 1.0 / step;
    if step > 0.0 && inverse.is_finite() { inverse } else { 0.0 }
}

/// Codes of 8 bits; f.
#[inline(always)]
fn bytes(z: &[f32], code: &mut [u8]) -> f32 {
    let step = z.iter().fold(0f32, |m, z| m.max(z.abs())) / 127.0;
    let inverse = inverse_of(step);
    for (u, z) in code.iter_mut().zip(z) {
        *u = ((z * inverse).round_ties_even() as i32 + 128) as u8;
    }
    if inverse > 0.0 { step } else { 0.0 }
}

/// Codes of 4 bits; f.
#[inline(always)]
fn half_bytes(z: &[f32], square: f64, code: &mut [u8]) -> f32 {
    let inverse = inverse_of((STEP * (square / z.len() as f64).sqrt()) as f32);
    let mut product = 0f64;
    code.fill(0);
    for (half, z) in z.chunks(code.len()).enumerate() {
        for (byte, z) in code.iter_mut().zip(z) {
            let u = (z * inverse).floor().clamp(-8.0, 7.0) as i32 + 8;
            product += f64::from(*z) * f64::from(2 * u - 15);
            *byte |= (u << (4 * half)) as u8;
        }
    }
    if inverse > 0.0 { (square / product) as f32 } else { 0.0 }
}

/// What coordinates are multiplied by before anything else.
pub(super) fn unit_of(metric: Metric, scale: f64, square: f64) -> f64 {
    if metric == Metric::Cosine { crate::exact::inverse_norm(square) } else { scale }
}
