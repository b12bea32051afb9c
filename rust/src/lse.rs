//! Row and column log-sum-exp of S in one pass.
//!
//! A strip is reduced against one power of two near its largest exponential, so that a single
//! exponential serves rows and columns; where its scores span too much for that, rows and columns each take their own maximum.
//! Milakov & Gimelshein, arXiv:1805.02867; merging as in flash attention.

use crate::buffer::{Buffer, Shared};
use crate::error::ArgumentError;
use crate::pairs::{LEFT_OUT, PairArgs, Pairs};
use crate::simd::math::{NOTHING, RAISE, exp_over, pow2};
use crate::simd::{Isa, Kernel, NV, Simd, tile_shape};
use crate::strip::{Scoring, Stash};
use crate::team;
use crate::tile::{Elem, Matrix, pack_panels};

/// Columns of a strip.
pub const STRIP: usize = 384;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Rows packed together; between them the sums of columns are carried in f32. A multiple of every tile's rows.
const ROWS: usize = 192;
/// Columns packed at a time.
const PACKED_COLUMNS: usize = 24 * STRIP;
/// Strips whose scores span less than this share a reference: no term then falls below 2^(RAISE - 160) of it, and merging two such sums
/// loses nothing above 2^-46.
const SPAN: f32 = 160.0 * std::f32::consts::LN_2;

/// 2^exponent · sum, with an integer-valued exponent: merging multiplies by exact powers of two.
#[derive(Clone, Copy, Debug)]
pub struct LogSum {
    exponent: f32,
    sum: f64,
}

impl LogSum {
    /// No terms.
    pub const EMPTY: LogSum = LogSum { exponent: LEFT_OUT, sum: 0.0 };

    /// Add 2^exponent · sum.
    #[inline(always)]
    pub fn add(&mut self, exponent: f32, sum: f64) {
        if sum > 0.0 {
            if exponent > self.exponent {
                self.sum = self.sum * pow2(self.exponent - exponent) + sum;
                self.exponent = exponent;
            } else {
                self.sum += sum * pow2(exponent - self.exponent);
            }
        }
    }

    /// Add all of `other`.
    #[inline(always)]
    pub fn merge(&mut self, other: LogSum) {
        self.add(other.exponent, other.sum);
    }

    /// Base 2; −∞ without terms.
    pub fn log2(self) -> f64 {
        if self.sum > 0.0 { f64::from(self.exponent) + self.sum.log2() } else { f64::NEG_INFINITY }
    }

    /// Base e; −∞ without terms.
    pub fn ln(self) -> f64 {
        self.log2() * std::f64::consts::LN_2
    }
}

/// Sums of a strip's columns relative to their exponents, in f32.
#[derive(Clone, Copy)]
pub struct ColumnSums {
    /// Integer-valued exponents.
    pub exponent: *mut f32,
    /// Sums.
    pub sum: *mut f32,
}

/// Reduce a strip of `columns` (rounded up to whole tiles) to its `rows` rows and/or add it to its columns.
/// `(high, low)` bound the scores that are not left out.
///
/// # Safety
/// `S` is available; the strip has `MR` rows of `stride` words, `row_sums` (when wanted) `rows` elements, `column_sums` whole tiles.
#[inline(always)]
pub unsafe fn reduce<S: Simd, const MR: usize, const ROW: bool, const COLUMN: bool>(
    (strip, stride): (*const f32, usize),
    (rows, columns): (usize, usize),
    (high, low): (f32, f32),
    row_sums: *mut LogSum,
    column_sums: ColumnSums,
) {
    let columns = columns.next_multiple_of(NV * S::W);
    // SAFETY: the caller's promise. Unsafe for speed: benches/bench_pair_lse.py measures what this adds to the products.
    unsafe {
        let zero = S::splat(0.0);
        if high - low < SPAN {
            let top = (high * LOG2_E).round_ties_even();
            let (least, under, raised) = (S::splat(high - NOTHING), S::splat(-top), S::splat(top - RAISE));
            let mut row = [zero; MR];
            for c in (0..columns).step_by(S::W) {
                let mut column = zero;
                for (r, row) in row.iter_mut().enumerate() {
                    let e = exp_over::<S, true>(S::load(strip.add(r * stride + c)), least, under);
                    if ROW {
                        *row = S::add(*row, e);
                    }
                    if COLUMN {
                        column = S::add(column, e);
                    }
                }
                if COLUMN {
                    add_columns::<S>(column_sums, c, raised, column);
                }
            }
            if ROW {
                for (r, sum) in row.iter().take(rows).enumerate() {
                    (*row_sums.add(r)).add(top - RAISE, f64::from(S::sum(*sum)));
                }
            }
            return;
        }
        let nothing = S::splat(0.5 * LEFT_OUT);
        if ROW {
            for r in 0..rows {
                let line = strip.add(r * stride);
                let mut max = S::splat(LEFT_OUT);
                for c in (0..columns).step_by(S::W) {
                    max = S::max(max, S::load(line.add(c)));
                }
                let high = S::max_lane(max);
                if high < 0.5 * LEFT_OUT {
                    continue;
                }
                let top = (high * LOG2_E).round_ties_even();
                let (least, under, mut sum) = (S::splat(high - NOTHING), S::splat(-top), zero);
                for c in (0..columns).step_by(S::W) {
                    sum = S::add(sum, exp_over::<S, false>(S::load(line.add(c)), least, under));
                }
                (*row_sums.add(r)).add(top, f64::from(S::sum(sum)));
            }
        }
        if COLUMN {
            for c in (0..columns).step_by(S::W) {
                let mut max = S::splat(LEFT_OUT);
                for r in 0..MR {
                    max = S::max(max, S::load(strip.add(r * stride + c)));
                }
                let top = S::round(S::mul(max, S::splat(LOG2_E)));
                let (least, under, mut sum) = (S::sub(max, S::splat(NOTHING)), S::sub(zero, top), zero);
                for r in 0..MR {
                    sum = S::add(sum, exp_over::<S, false>(S::load(strip.add(r * stride + c)), least, under));
                }
                add_columns::<S>(column_sums, c, top, S::select_gt(max, nothing, sum, zero));
            }
        }
    }
}

/// (exponent, sum) ⊕ (e, v) for one vector of columns; lanes with v = 0 stay as they are.
#[inline(always)]
unsafe fn add_columns<S: Simd>(to: ColumnSums, c: usize, e: S::V, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe {
        let (m, s) = (S::load(to.exponent.add(c)), S::load(to.sum.add(c)));
        let n = S::select_gt(v, S::splat(0.0), S::max(m, e), m);
        let sum = S::add(S::scale2(s, S::sub(m, n)), S::scale2(v, S::sub(e, n)));
        S::store(to.exponent.add(c), n);
        S::store(to.sum.add(c), S::select_gt(v, S::splat(0.0), sum, s));
    }
}

/// The result of [`pair_lse`], natural logarithms.
pub struct PairLse {
    /// (M,) when wanted.
    pub row: Option<Vec<f32>>,
    /// (N,) when wanted.
    pub column: Option<Vec<f32>>,
}

/// One unit of work: rows `i0..i1` against columns `j0..j1`.
struct Unit<'a, E> {
    x: Matrix<'a, E>,
    scoring: &'a Scoring<'a>,
    rows: (usize, usize),
    columns: (usize, usize),
    /// Packed columns from `packed_from` on.
    packed: *const f32,
    packed_from: usize,
    scratch: &'a mut Scratch,
    row_sums: *mut LogSum,
    column_sums: *mut LogSum,
    stash: *mut u16,
    n: usize,
}

/// What a thread keeps between units.
struct Scratch {
    panels: Buffer,
    strip: Buffer,
    exponent: Buffer,
    sum: Buffer,
}

/// Words from one row of a strip to the next: not a power of two, which would map all rows to the same cache sets.
const STRIDE: usize = STRIP + 16;

impl Scratch {
    fn new(words: usize) -> Scratch {
        Scratch {
            panels: Buffer::new(ROWS * words),
            strip: Buffer::new(16 * STRIDE),
            exponent: Buffer::new(STRIDE),
            sum: Buffer::new(STRIDE),
        }
    }
}

impl<E: Elem> Kernel for Unit<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        // SAFETY: the unit's pointers cover its rows and columns.
        unsafe {
            match (self.row_sums.is_null(), self.column_sums.is_null()) {
                (false, false) => self.reduce::<S, MR, true, true>(),
                (false, true) => self.reduce::<S, MR, true, false>(),
                _ => self.reduce::<S, MR, false, true>(),
            }
        }
    }
}

impl<E: Elem> Unit<'_, E> {
    #[inline(always)]
    unsafe fn reduce<S: Simd, const MR: usize, const ROW: bool, const COLUMN: bool>(self) {
        let (scoring, k) = (self.scoring, self.scoring.words);
        let (panels, strip) = (self.scratch.panels.as_mut_ptr(), self.scratch.strip.as_mut_ptr());
        let sums = ColumnSums { exponent: self.scratch.exponent.as_mut_ptr(), sum: self.scratch.sum.as_mut_ptr() };
        // SAFETY: the unit's pointers cover its rows and columns.
        unsafe {
            for i0 in (self.rows.0..self.rows.1).step_by(ROWS) {
                let i1 = self.rows.1.min(i0 + ROWS);
                pack_panels(&self.x, i0, i1, MR, panels);
                for j0 in (self.columns.0..self.columns.1).step_by(STRIP) {
                    let live = STRIP.min(self.columns.1 - j0);
                    if COLUMN {
                        for c in 0..STRIP {
                            *sums.exponent.add(c) = LEFT_OUT;
                            *sums.sum.add(c) = 0.0;
                        }
                    }
                    for (p, i) in (i0..i1).step_by(MR).enumerate() {
                        let rows = MR.min(i1 - i);
                        let b = self.packed.add((j0 - self.packed_from) * k);
                        let bounds =
                            scoring.strip::<S, E, MR>((panels.add(p * MR * k), i), (b, j0, live), strip, STRIDE);
                        if !self.stash.is_null() {
                            Stash { at: self.stash.add(i * self.n + j0), stride: self.n }
                                .keep::<S>(strip, STRIDE, rows, live);
                        }
                        let row_sums = if ROW { self.row_sums.add(i - self.rows.0) } else { std::ptr::null_mut() };
                        reduce::<S, MR, ROW, COLUMN>((strip, STRIDE), (rows, live), bounds, row_sums, sums);
                    }
                    if COLUMN {
                        for c in 0..live {
                            let to = &mut *self.column_sums.add(j0 + c - self.columns.0);
                            to.add(*sums.exponent.add(c), f64::from(*sums.sum.add(c)));
                        }
                    }
                }
            }
        }
    }
}

/// How a matrix of scores is cut into units: by its shape alone, never by the number of threads.
struct Grid {
    row_block: usize,
    column_block: usize,
}

impl Grid {
    fn new(m: usize) -> Grid {
        // At most 16 blocks of rows, so that the partial sums of columns stay at 256 bytes a column.
        let row_block = m.div_ceil(16).next_multiple_of(ROWS).max(ROWS);
        // With few rows the columns are what can be shared out.
        let column_block = if m >= 8 * ROWS { PACKED_COLUMNS } else { 2 * STRIP };
        Grid { row_block, column_block }
    }
}

/// Row and/or column log-sum-exp of `scale · x yᵀ` with the biases and left-out pairs of `pairs`; −∞ where no pair is left.
/// `stash` (m · n, or empty) receives the scores as float16.
///
/// A value that is not finite anywhere in the input makes every result NaN.
///
/// # Errors
/// See [`Pairs::new`].
///
/// # Panics
/// When x and y differ in their number of columns, or `stash` has another length.
#[allow(clippy::too_many_arguments)]
pub fn pair_lse<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    scale: f32,
    pairs: &PairArgs,
    (want_row, want_column): (bool, bool),
    stash: &mut [u16],
    threads: usize,
    isa: Isa,
) -> Result<PairLse, ArgumentError> {
    assert_eq!(x.columns, y.columns);
    let (m, n, k) = (x.rows, y.rows, x.words());
    assert!(stash.is_empty() || stash.len() == m * n);
    let pairs = Pairs::new(pairs, m, n)?;
    let finish = |wanted: bool, sums: Vec<LogSum>| wanted.then(|| sums.into_iter().map(|s| s.ln() as f32).collect());
    if !(x.finite() && y.finite() && pairs.finite() && scale.is_finite()) {
        let all = |wanted: bool, len| wanted.then(|| vec![f32::NAN; len]);
        return Ok(PairLse { row: all(want_row, m), column: all(want_column, n) });
    }
    let mut row = vec![LogSum::EMPTY; if want_row { m } else { 0 }];
    let mut column = vec![LogSum::EMPTY; if want_column { n } else { 0 }];
    if m == 0 || n == 0 || !(want_row || want_column) {
        return Ok(PairLse { row: finish(want_row, row), column: finish(want_column, column) });
    }
    let scoring = Scoring { words: k, unit: scale, pairs: &pairs };
    let (_, nr) = tile_shape(isa);
    let grid = Grid::new(m);
    let row_blocks = m.div_ceil(grid.row_block);
    let width = PACKED_COLUMNS.min(n);
    let column_blocks = width.div_ceil(grid.column_block);
    let mut packed = Buffer::new(width.next_multiple_of(nr) * k);
    let mut row_parts = vec![LogSum::EMPTY; if want_row { column_blocks * m } else { 0 }];
    let mut column_parts = vec![LogSum::EMPTY; if want_column { row_blocks * width } else { 0 }];
    let (packed, row_parts, column_parts) =
        (packed.shared(), Shared::of(&mut row_parts), Shared::of(&mut column_parts));
    let (row_out, column_out) = (Shared::of(&mut row), Shared::of(&mut column));
    let stash = if stash.is_empty() { Shared::null() } else { Shared::of(stash) };
    team::run(threads, |team| {
        let mut scratch = Scratch::new(k);
        for from in (0..n).step_by(PACKED_COLUMNS) {
            let to = n.min(from + PACKED_COLUMNS);
            team.for_each((to - from).div_ceil(STRIP), |u| {
                let j0 = from + u * STRIP;
                // SAFETY: so below, units write disjoint parts of the shared arrays, and every phase ends with all threads waiting.
                unsafe { pack_panels(&y, j0, to.min(j0 + STRIP), nr, packed.at((j0 - from) * k)) }
            });
            let blocks = (to - from).div_ceil(grid.column_block);
            team.for_each(row_blocks * blocks, |u| {
                let (rb, cb) = (u % row_blocks, u / row_blocks);
                let (i0, j0) = (rb * grid.row_block, from + cb * grid.column_block);
                let (rows, columns) = ((i0, m.min(i0 + grid.row_block)), (j0, to.min(j0 + grid.column_block)));
                // SAFETY: as above.
                let (row_sums, column_sums, packed) = unsafe {
                    (
                        if want_row { row_parts.at(cb * m + i0) } else { std::ptr::null_mut() },
                        if want_column { column_parts.at(rb * width + j0 - from) } else { std::ptr::null_mut() },
                        packed.at(0),
                    )
                };
                // SAFETY: as above; null when there is no stash.
                let stash = if stash.is_null() { std::ptr::null_mut() } else { unsafe { stash.at(0) } };
                isa.run(Unit {
                    x,
                    scoring: &scoring,
                    rows,
                    columns,
                    packed,
                    packed_from: from,
                    scratch: &mut scratch,
                    row_sums,
                    column_sums,
                    stash,
                    n,
                });
            });
            // Partial sums are merged in the order of their blocks, and emptied for the next columns.
            const MERGED: usize = 1024;
            team.for_each(if want_row { m.div_ceil(MERGED) } else { 0 }, |u| {
                for i in u * MERGED..m.min((u + 1) * MERGED) {
                    for cb in 0..blocks {
                        // SAFETY: as above.
                        unsafe { (*row_out.at(i)).merge(row_parts.at(cb * m + i).replace(LogSum::EMPTY)) }
                    }
                }
            });
            team.for_each(if want_column { (to - from).div_ceil(MERGED) } else { 0 }, |u| {
                for j in from + u * MERGED..to.min(from + (u + 1) * MERGED) {
                    for rb in 0..row_blocks {
                        // SAFETY: as above.
                        unsafe {
                            (*column_out.at(j)).merge(column_parts.at(rb * width + j - from).replace(LogSum::EMPTY))
                        }
                    }
                }
            });
        }
    });
    Ok(PairLse { row: finish(want_row, row), column: finish(want_column, column) })
}
