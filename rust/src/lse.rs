//! Row and column log-sum-exp of S in one pass: strips are reduced (see [`crate::logsum`]), blocks merged in order.

use crate::buffer::{Buffer, Shared};
use crate::error::ArgumentError;
use crate::logsum::{ColumnSums, LogSum, reduce};
use crate::pairs::{LEFT_OUT, PairArgs, Pairs};
use crate::simd::{Isa, Kernel, Simd, tile_shape};
use crate::strip::{STRIP, Scoring, Stash, scores_are_finite};
use crate::team;
use crate::tile::{Elem, Matrix, pack_panels};

/// Rows packed together; between them the sums of columns are carried in f32. A multiple of every tile's rows.
const ROWS: usize = 192;
/// Columns packed at a time.
const PACKED_COLUMNS: usize = 24 * STRIP;
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
                            to.add(f64::from(*sums.exponent.add(c)), f64::from(*sums.sum.add(c)));
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
/// A value that is not finite anywhere in the input, or scores that could leave float32, make every result NaN.
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
    let pairs = Pairs::new(pairs, m, n, threads, isa)?;
    let finish = |wanted: bool, sums: Vec<LogSum>| wanted.then(|| sums.into_iter().map(|s| s.ln() as f32).collect());
    if !(scores_are_finite(&x, &y, scale) && pairs.finite()) {
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
