//! The k largest `y_scale_j · <x_i, y_j> + y_bias_j` of each row, without the matrix of scores.

use crate::buffer::{Buffer, Shared, results};
use crate::error::{ArgumentError, length};
use crate::pairs::check_csr;
use crate::scan::{BLOCK, Columns, LeftOut, PANEL, Product, Query, Scan};
use crate::select::{Candidate, Selector};
use crate::simd::Isa;
use crate::stop::room_for;
use crate::team;
use crate::tile::{Elem, Matrix};

/// Rows of a unit; a multiple of every tile's rows.
pub const ROWS: usize = 480;
/// Rows that are searched together: what a block of packed columns serves, and what bounds the memory for candidates.
const ROWS_AT_ONCE: usize = 16 * ROWS;
/// Words of packed columns at a time (32 MB).
const PACKED: usize = 8 << 20;

/// The columns of a factor or an offset, readable past the last.
pub fn padded(values: &[f32]) -> Vec<f32> {
    let mut v = values.to_vec();
    v.resize(values.len() + PANEL, 0.0);
    v
}

/// Pack rows `j0..j1` of y, `j0` a multiple of [`PANEL`], into panels of [`PANEL`] columns, word-major; zeros past the last row.
///
/// # Safety
/// `out` holds `(j1 - j0).next_multiple_of(PANEL) * y.words()` words.
pub unsafe fn pack<E: Elem>(y: &Matrix<E>, j0: usize, j1: usize, out: *mut f32) {
    // 16 words of a row are a line of it, and 16 words of a panel stay in L1 while they are filled.
    const WORDS: usize = 16;
    let k = y.words();
    for (p, first) in (j0..j1).step_by(PANEL).enumerate() {
        let live = PANEL.min(y.rows.min(j1).saturating_sub(first));
        for t0 in (0..k).step_by(WORDS) {
            let words = WORDS.min(k - t0);
            for c in 0..PANEL {
                let at = out.wrapping_add((p * k + t0) * PANEL + c).cast::<u32>();
                if c < live {
                    let row = y.row(first + c);
                    for t in 0..words {
                        // SAFETY: panel p has k words of PANEL columns.
                        unsafe { at.add(t * PANEL).write(E::word(row, t0 + t)) }
                    }
                } else {
                    for t in 0..words {
                        // SAFETY: as above.
                        unsafe { at.add(t * PANEL).write(0) }
                    }
                }
            }
        }
    }
}

/// How many parts the columns are cut into so that few rows occupy all threads. The k best of a row do not depend on it.
pub fn column_parts(row_units: usize, columns: usize, threads: usize) -> usize {
    if row_units >= 2 * threads || threads == 1 {
        1
    } else {
        (2 * threads).div_ceil(row_units).min(columns.div_ceil(4096))
    }
}

/// Part `part` of `parts` of columns `from..to`, at bounds that are multiples of [`BLOCK`] beyond `from`.
pub fn part(from: usize, to: usize, part: usize, parts: usize) -> (usize, usize) {
    let each = (to - from).div_ceil(parts).next_multiple_of(BLOCK);
    (to.min(from + part * each), to.min(from + (part + 1) * each))
}

/// What [`pair_topk`] is asked.
#[derive(Clone, Copy, Default)]
pub struct TopkArgs<'a> {
    /// Factors of the columns; 1 when None.
    pub y_scale: Option<&'a [f32]>,
    /// Offsets of the columns; 0 when None; a column at −∞ is left out.
    pub y_bias: Option<&'a [f32]>,
    /// CSR row pointers and columns of pairs that are left out.
    pub indptr: Option<&'a [i64]>,
    /// Sorted within a row.
    pub indices: Option<&'a [i64]>,
    /// Pairs (i, i) are left out.
    pub skip_diagonal: bool,
}

/// Scores in descending order and their columns, (M, k) each; equal scores by the smaller column; padded with −∞ and −1.
pub struct TopK {
    /// Scores.
    pub scores: Vec<f32>,
    /// Columns.
    pub ids: Vec<i64>,
}

impl TopK {
    /// Nothing found yet.
    ///
    /// # Errors
    /// More results than memory.
    pub fn empty(rows: usize, k: usize) -> Result<TopK, ArgumentError> {
        Ok(TopK { scores: results(rows, k, f32::NEG_INFINITY)?, ids: results(rows, k, -1)? })
    }
}

/// Row by row; the same bits for any number of threads, as each score is summed in one fixed order and order is total.
///
/// # Errors
/// Lengths, row pointers or columns that do not fit; a value that is not finite (other than a bias of −∞); too many columns.
///
/// # Panics
/// When x and y differ in their number of columns.
pub fn pair_topk<E: Product>(
    x: Matrix<E>,
    y: Matrix<E>,
    k: usize,
    args: &TopkArgs,
    threads: usize,
    isa: Isa,
) -> Result<TopK, ArgumentError> {
    assert_eq!(x.columns, y.columns);
    let (m, n, words) = (x.rows, y.rows, x.words());
    if n >= u32::MAX as usize {
        return Err(ArgumentError::Value(format!("y: wanted fewer than 2^32 rows, got {n}")));
    }
    let csr = match (args.indptr, args.indices) {
        (None, None) => None,
        (Some(p), Some(c)) => check_csr(p, c, m, n).map(|()| Some((p, c)))?,
        _ => return Err(ArgumentError::Pair("indptr, indices")),
    };
    for (name, values, least) in [("y_scale", args.y_scale, f32::MIN), ("y_bias", args.y_bias, f32::NEG_INFINITY)] {
        if let Some(values) = values {
            length(name, n, values.len())?;
            if !values.iter().all(|&v| v >= least && v < f32::INFINITY) {
                return Err(ArgumentError::Value(format!("{name}: wanted finite values")));
            }
        }
    }
    if !(x.finite() && y.finite()) {
        return Err(ArgumentError::Value("x, y: wanted finite values".into()));
    }
    let mut out = TopK::empty(m, k)?;
    if m == 0 || n == 0 || k == 0 {
        return Ok(out);
    }
    let (factor, offset) = (args.y_scale.map(padded), args.y_bias.map(padded));
    let left_out = LeftOut { filter: None, csr, diagonal: args.skip_diagonal };
    let at_once = (PACKED / words.max(1) / BLOCK * BLOCK).max(BLOCK).min(n.next_multiple_of(PANEL));
    let mut packed = Buffer::new(at_once * words);
    let packed = packed.shared();
    let together = m.min(ROWS_AT_ONCE);
    let parts = column_parts(together.div_ceil(ROWS), at_once.min(n), threads);
    let queries = vec![Query::PLAIN; ROWS];
    let (scores, ids) = (Shared::of(&mut out.scores), Shared::of(&mut out.ids));
    let (most, mut selectors) = (k.min(n), Vec::<Selector>::new());
    room_for::<Selector>(parts * together);
    selectors.resize_with(parts * together, || Selector::new(most));
    let selectors = Shared::of(&mut selectors);
    team::run(threads, |team| {
        let mut workspace = Buffer::new((ROWS.min(m) + 16) * words);
        let mut computed = 0;
        for first in (0..m).step_by(ROWS_AT_ONCE) {
            let rows = together.min(m - first);
            for from in (0..n).step_by(at_once) {
                let to = n.min(from + at_once);
                team.for_each((to - from).div_ceil(BLOCK), |u| {
                    let j = from + u * BLOCK;
                    // SAFETY: units write disjoint parts, and every phase ends with all threads waiting.
                    unsafe { pack(&y, j, to.min(j + BLOCK), packed.at((j - from) * words)) }
                });
                let row_units = rows.div_ceil(ROWS);
                team.for_each(row_units * parts, |u| {
                    let (p, r0) = (u / row_units, u % row_units * ROWS);
                    let r1 = rows.min(r0 + ROWS);
                    let (j0, j1) = part(from, to, p, parts);
                    if j0 == j1 {
                        return;
                    }
                    // SAFETY: as above.
                    let (selectors, panels) = unsafe {
                        let selectors = std::slice::from_raw_parts_mut(selectors.at(p * together + r0), r1 - r0);
                        (selectors, packed.at((j0 - from) * words))
                    };
                    isa.run(Scan {
                        x: Matrix::new(&x.data[(first + r0) * x.columns..(first + r1) * x.columns], r1 - r0, x.columns),
                        heavy: Matrix::new(&[], r1 - r0, 0),
                        tails: None,
                        first: first + r0,
                        queries: &queries[..r1 - r0],
                        selectors,
                        columns: Columns {
                            panels,
                            from: j0,
                            to: j1,
                            start: None,
                            factor: factor.as_deref(),
                            offset: offset.as_deref(),
                            heavy: std::ptr::null(),
                            bounds: None,
                        },
                        left_out,
                        exact: None,
                        workspace: &mut workspace,
                        computed: &mut computed,
                    });
                });
            }
            team.for_each(rows.div_ceil(64), |u| {
                for r in u * 64..rows.min((u + 1) * 64) {
                    let mut all: Vec<Candidate> = Vec::new();
                    for p in 0..parts {
                        // SAFETY: as above.
                        let selector =
                            unsafe { std::mem::replace(&mut *selectors.at(p * together + r), Selector::new(most)) };
                        all.extend(selector.into_sorted());
                    }
                    all.sort_by(|a, b| b.lower.total_cmp(&a.lower).then(a.id.cmp(&b.id)));
                    for (t, c) in all.iter().take(k).enumerate() {
                        // SAFETY: as above.
                        unsafe {
                            *scores.at((first + r) * k + t) = c.lower;
                            *ids.at((first + r) * k + t) = i64::from(c.id);
                        }
                    }
                }
            });
        }
    });
    Ok(out)
}
