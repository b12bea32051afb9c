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
//! * **Codes.** `z ≈ f (u − 128)`, bytes u; queries `w ≈ g v`, signed v. Products of bytes are summed exactly, hence the same score on every
//!   processor. With a rotation f is some 3.5 standard deviations over 127: the error is a few parts in 10⁴ of ‖w‖ ‖z‖.
//! * **Signs.** b = sign(z) estimates `<w, z> ≈ e <w, b>, e = ‖z‖² / ‖z‖₁`, without bias and with deviation 0.75 ‖w‖ ‖z‖ / √d, which is
//!   0.6 e ‖w‖ [2]. w has [`PLANES`] bits a coordinate, so that `<w, b>` is a few counts of ones. Vertices whose estimate cannot reach
//!   the pool are passed over before their codes are read; 64 bytes for up to 384 coordinates, a cache line.
//!
//! [1] Bachrach et al., Speeding up the Xbox recommender system, RecSys 2014.
//! [2] Gao & Long, RaBitQ, arXiv:2405.12497, §3.2 and theorem 3.2.

use super::rotate::Rotation;
use crate::exact::{Metric, dot};
use crate::simd::Simd;

/// Coordinates from which signs are kept: below, an estimate is too wide to exclude much, and codes are short.
const LEAST_SIGNED: usize = 128;
/// Bits of a query's coordinate where it meets signs, two's complement.
const PLANES: usize = 3;
/// Standard deviations at which the planes of a query end.
const CLIP: f64 = 2.5;
/// Deviation of an estimate in units of e ‖w‖, times what the walk asks for.
const SLACK: f64 = 0.6 * 1.4;
/// 2^50: coordinates are cut here, so that no score overflows.
const LARGEST: f64 = (1u64 << 50) as f64;

/// Where things lie in an item's two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) d: usize,
    /// Bytes of a code record, a multiple of a cache line: d codes, and the scalars at its end where there are no signs.
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
/// Where a begins in them.
const LIFT: usize = std::mem::offset_of!(Scalars, lift);

impl Layout {
    pub(super) fn new(d: usize) -> Layout {
        let signed = d >= LEAST_SIGNED;
        Layout {
            d,
            code_bytes: (d + if signed { 0 } else { SCALARS }).next_multiple_of(64),
            sign_bytes: if signed { (d.div_ceil(64) * 8 + SCALARS).next_multiple_of(64) } else { 0 },
        }
    }

    /// The scalars in the record (of signs, or else of codes) at `record`.
    ///
    /// # Safety
    /// `record` points to such a record.
    #[inline(always)]
    pub(super) unsafe fn scalars(&self, record: *const u8) -> Scalars {
        let bytes = if self.sign_bytes > 0 { self.sign_bytes } else { self.code_bytes };
        // SAFETY: the scalars are the record's last bytes; any bits are valid floats.
        unsafe { record.add(bytes - SCALARS).cast::<Scalars>().read_unaligned() }
    }

    /// Another a in a record that has scalars.
    pub(super) fn set_lift(&self, record: &mut [u8], lift: f32) {
        let at = record.len() - SCALARS + LIFT;
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
    center_square: f64,
    rotation: Rotation,
    /// ‖z‖ of the items that it was made for, as a root mean square.
    pub(super) typical_norm: f64,
}

/// A query as the walk needs it.
pub(super) struct Query {
    /// v, zero beyond d (`code_bytes`)
    codes: Vec<i8>,
    /// Bits of w, one plane after another, each of the words of a sign record.
    planes: Vec<u64>,
    /// g
    unit: f32,
    /// −128 Σ v
    shift: i32,
    /// A step of the planes' numbers.
    plane_unit: f32,
    /// Their sum.
    plane_shift: i32,
    /// What estimates are raised by, in units of e.
    slack: f32,
    /// β
    offset_factor: f32,
    /// γ
    lift_factor: f32,
    /// ‖w‖
    pub(super) norm: f32,
    vector: Vec<f32>,
    scratch: Vec<f32>,
}

impl Query {
    pub(super) fn new(layout: &Layout) -> Query {
        Query {
            codes: vec![0; layout.code_bytes],
            planes: vec![0; PLANES * layout.sign_bytes / 8],
            unit: 0.0,
            shift: 0,
            plane_unit: 0.0,
            plane_shift: 0,
            slack: 0.0,
            offset_factor: 0.0,
            lift_factor: 0.0,
            norm: 0.0,
            vector: vec![0.0; layout.d],
            scratch: vec![0.0; layout.d],
        }
    }

    /// g
    pub(super) fn unit(&self) -> f32 {
        self.unit
    }

    /// The score of an item from its code record.
    ///
    /// # Safety
    /// `S` is there; `code` points to a code record of this query's layout.
    #[inline(always)]
    pub(super) unsafe fn score<S: Simd>(&self, code: *const u8, item: Scalars) -> f32 {
        // SAFETY: the caller's promise.
        let sum = unsafe { dot_codes::<S>(code, self.codes.as_ptr(), self.codes.len()) } + self.shift;
        sum as f32 * (self.unit * item.unit) + (self.offset_factor * item.offset + self.lift_factor * item.lift)
    }

    /// The largest score that an item has, as far as its signs tell.
    ///
    /// # Safety
    /// `S` is there; `sign` points to a sign record of `bytes` bytes, this query's layout.
    #[inline(always)]
    pub(super) unsafe fn ceiling<S: Simd>(&self, sign: *const u8, bytes: usize, item: Scalars) -> f32 {
        let planes = self.planes.as_ptr().cast::<u8>();
        // SAFETY: the caller's promise; every plane is as long as a record, and 0 where that has no bits. A vector is no longer than a line.
        let sum = unsafe {
            let mut sums = S::splat(0.0);
            for at in (0..bytes).step_by(4 * S::W) {
                let plane = |p: usize| S::load(planes.add(p * bytes + at).cast());
                sums = S::weigh_ones(S::load(sign.add(at).cast()), [plane(0), plane(1), plane(2)], sums);
            }
            S::sum_i32(sums)
        };
        let estimate = (2 * sum - self.plane_shift) as f32 * self.plane_unit;
        item.estimate * (estimate + self.slack) + (self.offset_factor * item.offset + self.lift_factor * item.lift)
    }
}

/// Σ u v over `len` bytes, a multiple of a cache line.
///
/// # Safety
/// `S` is there; both point to `len` bytes.
#[inline(always)]
pub(super) unsafe fn dot_codes<S: Simd>(u: *const u8, v: *const i8, len: usize) -> i32 {
    let step = 4 * S::W;
    // SAFETY: the caller's promise, and a cache line is a multiple of every vector.
    unsafe {
        // Two chains: a product of bytes takes several cycles, of which one starts every one.
        let (mut even, mut odd) = (S::splat(0.0), S::splat(0.0));
        let mut at = 0;
        while at + 2 * step <= len {
            even = S::dot_i8(S::load(u.add(at).cast()), S::load(v.add(at).cast()), even);
            odd = S::dot_i8(S::load(u.add(at + step).cast()), S::load(v.add(at + step).cast()), odd);
            at += 2 * step;
        }
        if at < len {
            even = S::dot_i8(S::load(u.add(at).cast()), S::load(v.add(at).cast()), even);
        }
        S::sum_i32(even) + S::sum_i32(odd)
    }
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
        let Layout { d, .. } = self.layout;
        let square = dot(x, x);
        let unit = unit_of(self.metric, self.scale, square);
        let (z, scratch) = (&mut query.vector, &mut query.scratch);
        for ((z, x), c) in z.iter_mut().zip(x).zip(&self.center) {
            *z = (f64::from(*x) * unit - f64::from(*c)).clamp(-LARGEST, LARGEST) as f32;
        }
        let z_square = dot(z, z);
        let offset = if self.metric == Metric::SquaredL2 { -0.5 * z_square } else { dot(z, &self.center) };
        self.rotation.apply(z, scratch);
        let largest = z.iter().fold(0f32, |m, z| m.max(z.abs()));
        let step = largest / 127.0;
        let inverse = if step > 0.0 && (1.0 / step).is_finite() { 1.0 / step } else { 0.0 };
        for (u, z) in code.iter_mut().zip(z.iter()) {
            *u = ((z * inverse).round_ties_even() as i32 + 128) as u8;
        }
        let mut absolute = 0f64;
        if self.layout.sign_bytes > 0 {
            absolute = z.iter().map(|z| f64::from(z.abs())).sum();
            for (byte, z) in sign.iter_mut().zip(z.chunks(8)) {
                *byte = z.iter().enumerate().fold(0, |b, (t, z)| b | u8::from(*z > 0.0) << t);
            }
        }
        let scalars = Scalars {
            unit: if inverse > 0.0 { step } else { 0.0 },
            offset: offset as f32,
            lift: self.lift(square),
            estimate: if absolute > 0.0 { (z_square / absolute) as f32 } else { 0.0 },
        };
        debug_assert!(code.len() >= d);
        let record = if self.layout.sign_bytes > 0 { sign } else { code };
        let at = record.len() - SCALARS;
        for (to, value) in
            record[at..].chunks_exact_mut(4).zip([scalars.unit, scalars.offset, scalars.lift, scalars.estimate])
        {
            to.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// `x` as it asks; `item`: it is one, and asks for what is near it.
    #[inline(always)]
    pub(super) fn ask(&self, x: &[f32], item: bool, query: &mut Query) {
        let d = self.layout.d;
        let square = dot(x, x);
        let l2 = self.metric == Metric::SquaredL2;
        // A query's own length makes no difference but for distances; an item's meets its a.
        let unit = match self.metric {
            Metric::InnerProduct if !item => crate::exact::inverse_norm(square),
            metric => unit_of(metric, self.scale, square),
        };
        let beta = match self.center_square {
            _ if l2 => 1.0,
            0.0 => 0.0,
            square => dot(x, &self.center) * unit / square,
        };
        let of = |x: &f32, c: &f32| f64::from(*x) * unit - beta * f64::from(*c);
        let largest = x.iter().zip(&self.center).fold(0f64, |m, (x, c)| m.max(of(x, c).abs()));
        let shrink = if largest > 1.0 { 1.0 / largest } else { 1.0 };
        let w = &mut query.vector;
        for ((w, x), c) in w.iter_mut().zip(x).zip(&self.center) {
            *w = (of(x, c) * shrink) as f32;
        }
        let norm = dot(w, w).sqrt();
        self.rotation.apply(w, &mut query.scratch);
        let largest = w.iter().fold(0f32, |m, w| m.max(w.abs()));
        let step = largest / 127.0;
        let inverse = if step > 0.0 && (1.0 / step).is_finite() { 1.0 / step } else { 0.0 };
        let mut sum = 0;
        for (v, w) in query.codes.iter_mut().zip(w.iter()) {
            *v = (w * inverse).round_ties_even() as i8;
            sum += i32::from(*v);
        }
        query.unit = if inverse > 0.0 { step } else { 0.0 };
        query.shift = -128 * sum;
        query.norm = norm as f32;
        query.offset_factor = (beta * shrink) as f32;
        query.lift_factor = if item { self.lift(square) * shrink as f32 } else { 0.0 };
        if self.layout.sign_bytes > 0 {
            let half = (1 << (PLANES - 1)) as f32;
            let step = (CLIP * norm / (d as f64).sqrt()) as f32 / half;
            let inverse = if step > 0.0 && (1.0 / step).is_finite() { 1.0 / step } else { 0.0 };
            let stride = query.planes.len() / PLANES;
            let mut total = 0;
            for (word, w) in query.vector.chunks(64).enumerate() {
                let mut planes = [0u64; PLANES];
                for (bit, w) in w.iter().enumerate() {
                    let v = (w * inverse).round_ties_even().clamp(-half, half - 1.0) as i32;
                    total += v;
                    for (plane, bits) in planes.iter_mut().enumerate() {
                        *bits |= u64::from(v as u32 >> plane & 1) << bit;
                    }
                }
                for (plane, bits) in planes.into_iter().enumerate() {
                    query.planes[plane * stride + word] = bits;
                }
            }
            (query.plane_unit, query.plane_shift) = (step, total);
            query.slack = (SLACK * norm) as f32;
        }
    }
}

/// What coordinates are multiplied by before anything else.
fn unit_of(metric: Metric, scale: f64, square: f64) -> f64 {
    if metric == Metric::Cosine { crate::exact::inverse_norm(square) } else { scale }
}
