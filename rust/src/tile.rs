//! Packed-panel matrix products: the register tile and the layouts it reads.
//!
//! A "word" is one 32-bit lane along the inner dimension: one f32, two bfloat16 or four bytes. So packing, addressing and blocking
//! are the same for every type. Row panels hold `R` rows, word-major: `out[panel][word][R]`, short panels padded with zeros.

use crate::buffer::Shared;
use crate::error::ArgumentError;
use crate::simd::{NV, Simd};
use crate::stop::filled;
use crate::team;

/// Words summed in one chain of additions. A single chain over all of a long row has about twice the error of a blocked product.
pub const CHAIN: usize = 128;

/// An element type of the inputs.
pub trait Elem: Copy + Send + Sync + 'static {
    /// Elements in a word.
    const PER_WORD: usize;
    /// acc + Σ of the products in each lane.
    ///
    /// # Safety
    /// `S` is available.
    #[allow(missing_docs)]
    unsafe fn step<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V;
    /// The word at column `at` of a row; elements past its end are zero.
    fn word(row: &[Self], at: usize) -> u32;
    /// Element `column` of up to `PER_WORD` consecutive rows as one word.
    fn stack(rows: &[&[Self]], column: usize) -> u32;
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest even.
    fn from_f32(x: f32) -> Self;
}

impl Elem for f32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    unsafe fn step<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::fma(a, b, acc) }
    }
    #[inline(always)]
    fn word(row: &[f32], at: usize) -> u32 {
        row[at].to_bits()
    }
    #[inline(always)]
    fn stack(rows: &[&[f32]], column: usize) -> u32 {
        rows[0][column].to_bits()
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
}

/// bfloat16, by its bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Elem for Bf16 {
    const PER_WORD: usize = 2;
    #[inline(always)]
    unsafe fn step<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::dot_bf16(a, b, acc) }
    }
    #[inline(always)]
    fn word(row: &[Bf16], at: usize) -> u32 {
        let high = row.get(2 * at + 1).map_or(0, |v| v.0);
        u32::from(row[2 * at].0) | u32::from(high) << 16
    }
    #[inline(always)]
    fn stack(rows: &[&[Bf16]], column: usize) -> u32 {
        let high = rows.get(1).map_or(0, |r| r[column].0);
        u32::from(rows[0][column].0) | u32::from(high) << 16
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Bf16 {
        Bf16(half::bf16::from_f32(x).to_bits())
    }
}

/// A row-major matrix.
#[derive(Clone, Copy)]
pub struct Matrix<'a, E> {
    /// `rows * columns` elements.
    pub data: &'a [E],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

impl<'a, E: Elem> Matrix<'a, E> {
    /// # Panics
    /// When the length of `data` is not rows * columns.
    pub fn new(data: &'a [E], rows: usize, columns: usize) -> Matrix<'a, E> {
        assert_eq!(data.len(), rows * columns, "matrix: {rows} x {columns}");
        Matrix { data, rows, columns }
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [E] {
        &self.data[i * self.columns..][..self.columns]
    }

    /// Words in a row.
    pub fn words(&self) -> usize {
        self.columns.div_ceil(E::PER_WORD)
    }

    /// Whether no element is infinite or NaN.
    pub fn finite(&self) -> bool {
        self.largest().is_finite()
    }

    /// # Errors
    /// An element that is not; the argument is called `name`.
    pub fn check_finite(&self, name: &str) -> Result<(), ArgumentError> {
        let bad = if self.finite() {
            None
        } else {
            (0..self.rows).find(|&i| !Matrix::new(self.row(i), 1, self.columns).finite())
        };
        bad.map_or(Ok(()), |row| {
            Err(ArgumentError::Value(format!("{name}: finite values in float32, got NaN or infinity in row {row}")))
        })
    }

    /// The largest magnitude; infinite or NaN when an element is.
    pub fn largest(&self) -> f32 {
        // Magnitudes order like their bits, NaN above infinity: an integer maximum, which is vectorised.
        f32::from_bits(self.data.iter().fold(0, |max, v| max.max(v.to_f32().to_bits() & 0x7fff_ffff)))
    }
}

/// Pack rows `i0..i1` into panels of `r` rows (see the module); rows past the end of the matrix are zero.
///
/// # Safety
/// `out` holds `(i1 - i0).div_ceil(r) * r * words` words.
pub unsafe fn pack_panels<E: Elem>(x: &Matrix<E>, i0: usize, i1: usize, r: usize, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack_ranges(x, &[(0, x.columns)], (i0, i1), r, out) }
}

/// [`pack_panels`] of ranges of columns behind each other, every one from a new word on.
///
/// # Safety
/// As for [`pack_panels`], with the sum of the ranges' words.
pub unsafe fn pack_ranges<E: Elem>(
    x: &Matrix<E>,
    ranges: &[(usize, usize)],
    (i0, i1): (usize, usize),
    r: usize,
    out: *mut f32,
) {
    let k: usize = ranges.iter().map(|(begin, end)| (end - begin).div_ceil(E::PER_WORD)).sum();
    for (p, first) in (i0..i1).step_by(r).enumerate() {
        let panel = out.wrapping_add(p * r * k);
        let live = r.min(x.rows.min(i1).saturating_sub(first));
        for i in 0..r {
            if i < live {
                let mut at = panel.wrapping_add(i);
                for &(begin, end) in ranges {
                    let row = &x.row(first + i)[begin..end];
                    for t in 0..row.len().div_ceil(E::PER_WORD) {
                        // SAFETY: panel p has r * k words.
                        unsafe { at.cast::<u32>().write(E::word(row, t)) }
                        at = at.wrapping_add(r);
                    }
                }
            } else {
                for t in 0..k {
                    // SAFETY: as above.
                    unsafe { panel.add(t * r + i).cast::<u32>().write(0) }
                }
            }
        }
    }
}

/// The panels of at most `nr` columns of one range after the other: (first column, columns, number of the range).
pub fn column_panels(ranges: &[(usize, usize)], nr: usize) -> Vec<(usize, usize, usize)> {
    let of_range = |(k, &(begin, end)): (usize, &(usize, usize))| {
        (begin..end).step_by(nr).map(move |d| (d, nr.min(end - d), k)).collect::<Vec<_>>()
    };
    ranges.iter().enumerate().flat_map(of_range).collect()
}

/// Pack rows `i0..i1` for a product that sums over them: `out[panel][row / PER_WORD][nr]`, panels (see [`column_panels`]) `stride` words
/// apart. Rows past the end and columns past a panel's last are zero; `i0` is a multiple of `PER_WORD`.
///
/// # Safety
/// `out` holds a `stride` for each panel, `stride >= (i1 - i0).div_ceil(PER_WORD) * nr`.
pub unsafe fn pack_columns<E: Elem>(
    x: &Matrix<E>,
    (i0, i1): (usize, usize),
    panels: &[(usize, usize, usize)],
    nr: usize,
    stride: usize,
    out: *mut f32,
) {
    for (w, first) in (i0..i1).step_by(E::PER_WORD).enumerate() {
        let live = E::PER_WORD.min(x.rows.min(i1).saturating_sub(first));
        let empty: &[E] = &[];
        let mut rows = [empty; 4];
        for (i, row) in rows.iter_mut().enumerate().take(live) {
            *row = x.row(first + i);
        }
        for (panel, &(d0, columns, _)) in panels.iter().enumerate() {
            let line = out.wrapping_add(panel * stride + w * nr);
            for c in 0..nr {
                let word = if live > 0 && c < columns { E::stack(&rows[..live], d0 + c) } else { 0 };
                // SAFETY: line w of a panel has nr words.
                unsafe { line.add(c).cast::<u32>().write(word) }
            }
        }
    }
}

/// An `MR` x `NV·W` tile of accumulators.
pub type Acc<S, const MR: usize> = [[<S as Simd>::V; NV]; MR];

/// acc + Σ_k A[i, k] B[k, :] over `k` words. Element (i, k) of A is at `a[i * a_row + k * a_step]`, row k of B at `b[k * b_step..]`.
///
/// # Safety
/// `S` is available and the pointers cover what the strides reach.
#[inline(always)]
pub unsafe fn tile<S: Simd, E: Elem, const MR: usize>(
    k: usize,
    (a, a_row, a_step): (*const f32, usize, usize),
    (b, b_step): (*const f32, usize),
    acc: Acc<S, MR>,
) -> Acc<S, MR> {
    let (mut c, mut a, mut b) = (acc, a, b);
    for _ in 0..k {
        // SAFETY: the caller's promise. Unsafe for speed: this loop is what benches/microkernel measures.
        unsafe {
            let columns: [S::V; NV] = std::array::from_fn(|j| S::load(b.add(j * S::W)));
            for (i, row) in c.iter_mut().enumerate() {
                let left = S::splat(*a.add(i * a_row));
                for (lane, column) in row.iter_mut().zip(columns) {
                    *lane = E::step::<S>(left, column, *lane);
                }
            }
        }
        a = a.wrapping_add(a_step);
        b = b.wrapping_add(b_step);
    }
    c
}

/// [`tile`] from zero, in chains of `LINKS` words.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
pub unsafe fn tile_chained<S: Simd, E: Elem, const MR: usize, const LINKS: usize>(
    k: usize,
    (a, a_row, a_step): (*const f32, usize, usize),
    (b, b_step): (*const f32, usize),
) -> Acc<S, MR> {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = [[S::splat(0.0); NV]; MR];
        let mut acc = tile::<S, E, MR>(k.min(LINKS), (a, a_row, a_step), (b, b_step), zero);
        let mut k0 = LINKS;
        while k0 < k {
            let from = (a.add(k0 * a_step), a_row, a_step);
            let part = tile::<S, E, MR>(LINKS.min(k - k0), from, (b.add(k0 * b_step), b_step), zero);
            for (row, add) in acc.iter_mut().zip(part) {
                for (lane, add) in row.iter_mut().zip(add) {
                    *lane = S::add(*lane, add);
                }
            }
            k0 += LINKS;
        }
        acc
    }
}

/// [`tile_chained`] from two packed panels, in chains of [`CHAIN`] words.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
pub unsafe fn tile_packed<S: Simd, E: Elem, const MR: usize>(k: usize, a: *const f32, b: *const f32) -> Acc<S, MR> {
    // SAFETY: the caller's promise.
    unsafe { tile_chained::<S, E, MR, CHAIN>(k, (a, 1, MR), (b, NV * S::W)) }
}

/// The scores scale · <x_i, y_i> of rows with their own partners, summed in f64.
///
/// # Panics
/// When x and y differ in their number of columns.
pub fn own_scores<E: Elem>(x: Matrix<E>, y: Matrix<E>, scale: f32, threads: usize) -> Vec<f32> {
    const ROWS: usize = 256;
    assert_eq!(x.columns, y.columns);
    let rows = x.rows.min(y.rows);
    let mut out = filled(0f32, rows);
    let shared = Shared::of(&mut out);
    team::run(threads.min(rows.div_ceil(ROWS)), |team| {
        team.for_each(rows.div_ceil(ROWS), |u| {
            for i in u * ROWS..rows.min((u + 1) * ROWS) {
                let mut lanes = [0f64; 8];
                for (d, (a, b)) in x.row(i).iter().zip(y.row(i)).enumerate() {
                    lanes[d % 8] += f64::from(a.to_f32()) * f64::from(b.to_f32());
                }
                // SAFETY: this unit owns its rows.
                unsafe { *shared.at(i) = (f64::from(scale) * lanes.iter().sum::<f64>()) as f32 }
            }
        });
    });
    out
}
