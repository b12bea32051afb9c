//! Row and column log-sum-exp of S in one pass: strips are reduced (see [`crate::logsum`]), blocks merged in order.

use crate::buffer::{Buffer, Shared};
use crate::error::ArgumentError;
use crate::logsum::{ColumnSums, LogSum, reduce};
use crate::pairs::{LEFT_OUT, PairArgs, Pairs};
use crate::prefixes::Prefixes;
use crate::simd::{Isa, Kernel, Simd, tile_shape};
use crate::stop::{checkpoint, filled};
use crate::strip::{STRIP, Scoring, Stash, scores_are_finite};
use crate::team;
use crate::tile::{Elem, Matrix};

/// Rows packed together; between them the sums of columns are carried in f32. A multiple of every tile's rows.
const ROWS: usize = 192;
/// Columns packed at a time.
const PACKED_COLUMNS: usize = 24 * STRIP;

/// The result of [`pair_lse`], natural logarithms; of [`nested_lse`] for K prefixes one after the other.
pub struct PairLse {
    /// (M,) or (K, M) when wanted.
    pub row: Option<Vec<f32>>,
    /// (N,) or (K, N) when wanted.
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
    /// Of the first prefix; those of the next stand `row_stride` and `column_stride` further on.
    row_sums: *mut LogSum,
    column_sums: *mut LogSum,
    row_stride: usize,
    column_stride: usize,
    stash: *mut u16,
    n: usize,
}

/// What a thread keeps between units.
struct Scratch {
    panels: Buffer,
    strip: Buffer,
    /// Running inner products, and sums of columns for every prefix.
    dot: Buffer,
    exponent: Buffer,
    sum: Buffer,
}

/// Words from one row of a strip to the next: not a power of two, which would map all rows to the same cache sets.
const STRIDE: usize = STRIP + 16;

impl Scratch {
    fn new(scoring: &Scoring) -> Scratch {
        let count = scoring.count();
        Scratch {
            panels: Buffer::new(ROWS * scoring.words),
            strip: Buffer::new(16 * STRIDE),
            dot: Buffer::new(if scoring.prefixes.is_some() { 16 * STRIDE } else { 0 }),
            exponent: Buffer::new(count * STRIDE),
            sum: Buffer::new(count * STRIDE),
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
        let (scoring, k, count) = (self.scoring, self.scoring.words, self.scoring.count());
        let (panels, strip) = (self.scratch.panels.as_mut_ptr(), self.scratch.strip.as_mut_ptr());
        let dot = self.scratch.dot.as_mut_ptr();
        let all = ColumnSums { exponent: self.scratch.exponent.as_mut_ptr(), sum: self.scratch.sum.as_mut_ptr() };
        // SAFETY: the unit's pointers cover its rows and columns, for each prefix.
        unsafe {
            for i0 in (self.rows.0..self.rows.1).step_by(ROWS) {
                checkpoint();
                let i1 = self.rows.1.min(i0 + ROWS);
                scoring.pack(&self.x, i0, i1, MR, panels);
                for j0 in (self.columns.0..self.columns.1).step_by(STRIP) {
                    let live = STRIP.min(self.columns.1 - j0);
                    if scoring.pairs.none_from(i0, j0 + live) {
                        continue;
                    }
                    if COLUMN {
                        for c in 0..count * STRIDE {
                            *all.exponent.add(c) = LEFT_OUT;
                            *all.sum.add(c) = 0.0;
                        }
                    }
                    for (p, i) in (i0..i1).step_by(MR).enumerate() {
                        let rows = MR.min(i1 - i);
                        let a = (panels.add(p * MR * k).cast_const(), i);
                        let b = (self.packed.add((j0 - self.packed_from) * k), j0, live);
                        for prefix in 0..count {
                            let bounds = scoring.strip_of::<S, E, MR>(prefix, a, b, dot, (strip, STRIDE));
                            if !self.stash.is_null() {
                                Stash { at: self.stash.add(i * self.n + j0), stride: self.n }
                                    .keep::<S>(strip, STRIDE, rows, live);
                            }
                            let row_sums = if ROW {
                                self.row_sums.add(prefix * self.row_stride + i - self.rows.0)
                            } else {
                                std::ptr::null_mut()
                            };
                            let at = prefix * STRIDE;
                            let sums = ColumnSums { exponent: all.exponent.add(at), sum: all.sum.add(at) };
                            reduce::<S, MR, ROW, COLUMN>((strip, STRIDE), (rows, live), bounds, row_sums, sums);
                        }
                    }
                    if COLUMN {
                        for prefix in 0..count {
                            for c in 0..live {
                                let to = self.column_sums.add(prefix * self.column_stride + j0 + c - self.columns.0);
                                let at = prefix * STRIDE + c;
                                (*to).add(f64::from(*all.exponent.add(at)), f64::from(*all.sum.add(at)));
                            }
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
    let (m, n) = (x.rows, y.rows);
    assert!(stash.is_empty() || stash.len() == m * n);
    let pairs = Pairs::new(pairs, m, n, threads, isa)?;
    Ok(log_sums(x, y, &Scoring::new(&x, scale, &pairs, None), (want_row, want_column), stash, threads, isa))
}

/// [`pair_lse`] of each of K prefixes, (K, M) and/or (K, N); `pairs` without biases.
///
/// # Errors
/// See [`Pairs::new`].
///
/// # Panics
/// When x and y differ in their number of columns, or `pairs` has biases.
#[allow(clippy::too_many_arguments)]
pub fn nested_lse<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    scale: f32,
    prefixes: &Prefixes,
    pairs: &PairArgs,
    (want_row, want_column): (bool, bool),
    threads: usize,
    isa: Isa,
) -> Result<PairLse, ArgumentError> {
    assert_eq!(x.columns, y.columns);
    assert!(pairs.x_bias.or(pairs.y_bias).is_none());
    let pairs = Pairs::new(pairs, x.rows, y.rows, threads, isa)?;
    let scoring = Scoring::new(&x, scale, &pairs, Some(prefixes));
    Ok(log_sums(x, y, &scoring, (want_row, want_column), &mut [], threads, isa))
}

fn log_sums<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    scoring: &Scoring,
    (want_row, want_column): (bool, bool),
    stash: &mut [u16],
    threads: usize,
    isa: Isa,
) -> PairLse {
    let (m, n, k, count) = (x.rows, y.rows, scoring.words, scoring.count());
    let finish = |wanted: bool, sums: Vec<LogSum>| wanted.then(|| sums.into_iter().map(|s| s.ln() as f32).collect());
    if !(scores_are_finite(&x, &y, scoring.unit) && scoring.pairs.finite()) {
        let all = |wanted: bool, len| wanted.then(|| filled(f32::NAN, len));
        return PairLse { row: all(want_row, count * m), column: all(want_column, count * n) };
    }
    let mut row = filled(LogSum::EMPTY, if want_row { count * m } else { 0 });
    let mut column = filled(LogSum::EMPTY, if want_column { count * n } else { 0 });
    if m == 0 || n == 0 || !(want_row || want_column) {
        return PairLse { row: finish(want_row, row), column: finish(want_column, column) };
    }
    let (_, nr) = tile_shape(isa);
    let grid = Grid::new(m);
    let row_blocks = m.div_ceil(grid.row_block);
    let width = PACKED_COLUMNS.min(n);
    let column_blocks = width.div_ceil(grid.column_block);
    let mut packed = Buffer::new(width.next_multiple_of(nr) * k);
    let mut row_parts = filled(LogSum::EMPTY, if want_row { column_blocks * count * m } else { 0 });
    let mut column_parts = filled(LogSum::EMPTY, if want_column { row_blocks * count * width } else { 0 });
    let (packed, row_parts, column_parts) =
        (packed.shared(), Shared::of(&mut row_parts), Shared::of(&mut column_parts));
    let (row_out, column_out) = (Shared::of(&mut row), Shared::of(&mut column));
    let stash = if stash.is_empty() { Shared::null() } else { Shared::of(stash) };
    team::run(threads, |team| {
        let mut scratch = Scratch::new(scoring);
        for from in (0..n).step_by(PACKED_COLUMNS) {
            let to = n.min(from + PACKED_COLUMNS);
            team.for_each((to - from).div_ceil(STRIP), |u| {
                let j0 = from + u * STRIP;
                // SAFETY: so below, units write disjoint parts of the shared arrays, and every phase ends with all threads waiting.
                unsafe { scoring.pack(&y, j0, to.min(j0 + STRIP), nr, packed.at((j0 - from) * k)) }
            });
            let blocks = (to - from).div_ceil(grid.column_block);
            team.for_each(row_blocks * blocks, |u| {
                let (rb, cb) = (u % row_blocks, u / row_blocks);
                let (i0, j0) = (rb * grid.row_block, from + cb * grid.column_block);
                let (rows, columns) = ((i0, m.min(i0 + grid.row_block)), (j0, to.min(j0 + grid.column_block)));
                // SAFETY: as above.
                let (row_sums, column_sums, packed) = unsafe {
                    (
                        if want_row { row_parts.at(cb * count * m + i0) } else { std::ptr::null_mut() },
                        if want_column {
                            column_parts.at(rb * count * width + j0 - from)
                        } else {
                            std::ptr::null_mut()
                        },
                        packed.at(0),
                    )
                };
                // SAFETY: as above; null when there is no stash.
                let stash = if stash.is_null() { std::ptr::null_mut() } else { unsafe { stash.at(0) } };
                isa.run(Unit {
                    x,
                    scoring,
                    rows,
                    columns,
                    packed,
                    packed_from: from,
                    scratch: &mut scratch,
                    row_sums,
                    column_sums,
                    row_stride: m,
                    column_stride: width,
                    stash,
                    n,
                });
            });
            // Partial sums are merged in the order of their blocks, and emptied for the next columns.
            const MERGED: usize = 1024;
            let rows = if want_row { count * m } else { 0 };
            team.for_each(rows.div_ceil(MERGED), |u| {
                for i in u * MERGED..rows.min((u + 1) * MERGED) {
                    for cb in 0..blocks {
                        // SAFETY: as above.
                        unsafe { (*row_out.at(i)).merge(row_parts.at(cb * rows + i).replace(LogSum::EMPTY)) }
                    }
                }
            });
            let columns = if want_column { count * (to - from) } else { 0 };
            team.for_each(columns.div_ceil(MERGED), |u| {
                for c in u * MERGED..columns.min((u + 1) * MERGED) {
                    let (prefix, j) = (c / (to - from), c % (to - from));
                    for rb in 0..row_blocks {
                        // SAFETY: as above.
                        unsafe {
                            let part = column_parts.at((rb * count + prefix) * width + j);
                            (*column_out.at(prefix * n + from + j)).merge(part.replace(LogSum::EMPTY));
                        }
                    }
                }
            });
        }
    });
    PairLse { row: finish(want_row, row), column: finish(want_column, column) }
}
