//! Which pairs take part, and the biases of their scores.

use crate::error::{ArgumentError, length};
use crate::limits::{GuideArgs, Limits};
use crate::simd::{Isa, Simd};

/// The score of a pair that is left out. Its exponential is 0, and unlike −∞ it survives a subtraction.
pub const LEFT_OUT: f32 = -1e30;

/// Scores are below this, far above [`LEFT_OUT`] and far from where float32 ends.
pub const LARGEST: f32 = 1e28;

/// What happens to the pairs (i, i).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Diagonal {
    /// Nothing.
    #[default]
    Keep,
    /// Left out.
    Skip,
    /// The sign of their score is turned.
    Flip,
    /// Left out, and with them all pairs (i, j) of j < i: for a matrix against itself, whose two halves are equal.
    Above,
}

/// What happens to the pairs of equal ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdsMode {
    /// Left out.
    #[default]
    Exclude,
    /// Only they take part.
    Only,
    /// The sign of their score is turned.
    Flip,
}

/// As the caller gives it; see `_core.pyi`.
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct PairArgs<'a> {
    pub x_bias: Option<&'a [f32]>,
    pub y_bias: Option<&'a [f32]>,
    pub x_ids: Option<&'a [i64]>,
    pub y_ids: Option<&'a [i64]>,
    pub ids_mode: IdsMode,
    pub indptr: Option<&'a [i64]>,
    pub indices: Option<&'a [i64]>,
    pub diagonal: Diagonal,
    pub threshold: Option<&'a [f32]>,
    pub guide: Option<GuideArgs<'a>>,
}

/// Checked, and laid out so that strips can read past the last column.
pub struct Pairs<'a> {
    m: usize,
    n: usize,
    x_bias: Option<Vec<f32>>,
    y_bias: Option<Vec<f32>>,
    ids: Option<(Vec<f32>, Vec<f32>)>,
    ids_mode: IdsMode,
    csr: Option<(&'a [i64], &'a [i64])>,
    diagonal: Diagonal,
    limits: Option<Limits>,
}

/// Columns past the last that a strip may read.
const PADDING: usize = 64;

impl<'a> Pairs<'a> {
    /// The checked arguments of an (m, n) matrix; a guide is packed for the tiles of `isa`.
    ///
    /// # Errors
    /// Lengths, row pointers and column numbers that do not fit an (m, n) matrix.
    ///
    /// # Panics
    /// When the two sides of a guide differ in their number of columns.
    pub fn new(args: &PairArgs<'a>, m: usize, n: usize, threads: usize, isa: Isa) -> Result<Pairs<'a>, ArgumentError> {
        let bias = |name, bias: Option<&[f32]>, rows: usize| match bias {
            None => Ok(None),
            Some(b) => length(name, rows, b.len()).map(|()| {
                let mut v: Vec<f32> = b.to_vec();
                v.resize(rows + PADDING, 0.0);
                Some(v)
            }),
        };
        let ids = match (args.x_ids, args.y_ids) {
            (None, None) => None,
            (Some(x), Some(y)) => {
                length("x_ids", m, x.len())?;
                length("y_ids", n, y.len())?;
                Some(codes(x, y))
            }
            _ => return Err(ArgumentError::Pair("x_ids, y_ids")),
        };
        let csr = match (args.indptr, args.indices) {
            (None, None) => None,
            (Some(p), Some(c)) => {
                check_csr(p, c, m, n)?;
                Some((p, c))
            }
            _ => return Err(ArgumentError::Pair("indptr, indices")),
        };
        Ok(Pairs {
            m,
            n,
            x_bias: bias("x_bias", args.x_bias, m)?,
            y_bias: bias("y_bias", args.y_bias, n)?,
            ids,
            ids_mode: args.ids_mode,
            csr,
            diagonal: args.diagonal,
            limits: Limits::new(args.threshold, args.guide, (m, n), threads, isa)?,
        })
    }

    /// Whether no pair of row `i` or a later one and a column before `j` takes part.
    #[inline(always)]
    pub(crate) fn none_from(&self, i: usize, j: usize) -> bool {
        self.diagonal == Diagonal::Above && j <= i + 1
    }

    /// Whether all biases are finite, and none is larger than a score may be.
    pub fn finite(&self) -> bool {
        [&self.x_bias, &self.y_bias].into_iter().flatten().flatten().all(|b| b.abs() < LARGEST)
    }

    /// The bias of row `i`, which may lie past the last.
    #[inline(always)]
    pub(crate) fn row_bias(&self, i: usize) -> f32 {
        self.x_bias.as_ref().map_or(0.0, |b| b[i])
    }

    /// The biases of the columns from `j` on, readable past the last column; null when there are none.
    #[inline(always)]
    pub(crate) fn column_bias(&self, j: usize) -> *const f32 {
        self.y_bias.as_ref().map_or(std::ptr::null(), |b| b[j..].as_ptr())
    }

    /// Overwrite with [`LEFT_OUT`] the scores of left-out pairs in a strip of rows `i0..i0 + MR` and columns `j0..j0 + columns`,
    /// of which those past the last row and column are also left out; and turn the signs of flipped pairs.
    ///
    /// # Safety
    /// `S` is available; `strip` has `MR` rows of `stride` words; `i0` is a multiple of `MR`, `j0` and `columns` of a tile's columns.
    #[inline(always)]
    pub(crate) unsafe fn mask<S: Simd, const MR: usize>(
        &self,
        strip: *mut f32,
        stride: usize,
        i0: usize,
        (j0, columns): (usize, usize),
    ) {
        let rows = MR;
        // SAFETY: the caller's promise; ids and biases are padded.
        unsafe {
            let out = S::splat(LEFT_OUT);
            if let Some((x, y)) = &self.ids {
                for r in 0..rows.min(self.m.saturating_sub(i0)) {
                    let (id, row) = (S::splat(x[i0 + r]), strip.add(r * stride));
                    for c in (0..columns).step_by(S::W) {
                        let (s, other) = (S::load(row.add(c)), S::load(y.as_ptr().add(j0 + c)));
                        let s = match self.ids_mode {
                            IdsMode::Exclude => S::select_eq(id, other, out, s),
                            IdsMode::Only => S::select_eq(id, other, s, out),
                            IdsMode::Flip => S::select_eq(id, other, S::sub(S::splat(0.0), s), s),
                        };
                        S::store(row.add(c), s);
                    }
                }
            }
            if self.diagonal == Diagonal::Above {
                for i in i0..if j0 < i0 + rows { i0 + rows } else { i0 } {
                    for c in 0..columns.min((i + 1).saturating_sub(j0)) {
                        *strip.add((i - i0) * stride + c) = LEFT_OUT;
                    }
                }
            } else if self.diagonal != Diagonal::Keep {
                for i in i0.max(j0)..(i0 + rows).min(j0 + columns) {
                    let s = strip.add((i - i0) * stride + i - j0);
                    let flipped_already = self.ids_mode == IdsMode::Flip && self.same_id(i);
                    match self.diagonal {
                        Diagonal::Skip => *s = LEFT_OUT,
                        Diagonal::Flip if !flipped_already => *s = -*s,
                        _ => {}
                    }
                }
            }
            if let Some(limits) = &self.limits {
                limits.apply::<S, MR>(strip, stride, i0, (j0, columns));
            }
            if let Some((indptr, indices)) = self.csr {
                for r in 0..rows.min(self.m.saturating_sub(i0)) {
                    let of_row = &indices[indptr[i0 + r] as usize..indptr[i0 + r + 1] as usize];
                    let first = of_row.partition_point(|&j| (j as usize) < j0);
                    for &j in of_row[first..].iter().take_while(|&&j| (j as usize) < j0 + columns) {
                        *strip.add(r * stride + j as usize - j0) = LEFT_OUT;
                    }
                }
            }
            let live = columns.min(self.n.saturating_sub(j0));
            for r in 0..rows {
                let from = if i0 + r < self.m { live } else { 0 };
                for c in from..columns {
                    *strip.add(r * stride + c) = LEFT_OUT;
                }
            }
        }
    }

    #[inline(always)]
    fn same_id(&self, i: usize) -> bool {
        i < self.m.min(self.n) && self.ids.as_ref().is_some_and(|(x, y)| x[i].to_bits() == y[i].to_bits())
    }

    /// Whether pair (i, j) has its sign turned. Written into `sign` (−1 or 1) for a row of a strip, when any can be.
    #[inline(always)]
    pub(crate) unsafe fn signs<S: Simd>(&self, sign: *mut f32, i: usize, (j0, columns): (usize, usize)) -> bool {
        let by_id = self.ids_mode == IdsMode::Flip && self.ids.is_some();
        if !(by_id || self.diagonal == Diagonal::Flip) || i >= self.m {
            return false;
        }
        // SAFETY: the caller's promise, as for `mask`.
        unsafe {
            for c in (0..columns).step_by(S::W) {
                let mut v = S::splat(1.0);
                if let (true, Some((x, y))) = (by_id, &self.ids) {
                    v = S::select_eq(S::splat(x[i]), S::load(y.as_ptr().add(j0 + c)), S::splat(-1.0), v);
                }
                S::store(sign.add(c), v);
            }
            if self.diagonal == Diagonal::Flip && (j0..j0 + columns).contains(&i) {
                *sign.add(i - j0) = -1.0;
            }
        }
        true
    }
}

/// Ids as small numbers, carried as the bits of an f32; the padding of `y` matches nobody.
fn codes(x: &[i64], y: &[i64]) -> (Vec<f32>, Vec<f32>) {
    let mut known: Vec<i64> = x.to_vec();
    known.sort_unstable();
    known.dedup();
    let code = |id: &i64| f32::from_bits(known.binary_search(id).map_or(u32::MAX, |c| c as u32));
    let x = x.iter().map(code).collect();
    let mut y: Vec<f32> = y.iter().map(code).collect();
    y.resize(y.len() + PADDING, f32::from_bits(u32::MAX));
    (x, y)
}

/// # Errors
/// Row pointers or columns that do not fit an (m, n) matrix.
pub fn check_csr(indptr: &[i64], indices: &[i64], m: usize, n: usize) -> Result<(), ArgumentError> {
    length("indptr", m + 1, indptr.len())?;
    let rising = indptr.windows(2).all(|w| w[0] <= w[1]);
    if !rising || indptr[0] != 0 || indptr[m] != indices.len() as i64 {
        return Err(ArgumentError::Indptr(indices.len()));
    }
    let sorted = indptr.windows(2).all(|w| {
        let row = &indices[w[0] as usize..w[1] as usize];
        row.windows(2).all(|p| p[0] <= p[1]) && row.iter().all(|&j| j >= 0 && (j as usize) < n)
    });
    if sorted { Ok(()) } else { Err(ArgumentError::Indices(n)) }
}
