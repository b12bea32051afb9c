//! Prefixes of the coordinates (Matryoshka representations): scores of every one from a single sweep over the coordinates.
//!
//! s_k[i, j] = scale · <x_i, y_j>_k / (|x_i|_k |y_j|_k) over the first d_k coordinates: a prefix's inner product is a partial sum of the
//! next one's. Kusupati et al., Matryoshka representation learning, arXiv:2205.13147.

use crate::error::ArgumentError;
use crate::simd::{NV, Simd};
use crate::stop::filled;
use crate::strip::Scoring;
use crate::tile::{Elem, Matrix, tile_packed};

/// Of torch.nn.functional.normalize: a row of zeros stays one.
const EPSILON: f64 = 1e-12;
/// Columns past the last that a strip may read.
const PADDING: usize = 64;

/// Ascending prefixes, and the reciprocal norms of both sides.
pub struct Prefixes {
    /// Coordinates between one prefix's end and the next.
    pub(crate) ranges: Vec<(usize, usize)>,
    /// Words of all ranges before each, and of all.
    words: Vec<usize>,
    x: Norms,
    y: Norms,
    normalized: bool,
}

/// (K, rows + padding) reciprocals; without normalisation, ones.
struct Norms {
    inverse: Vec<f32>,
    stride: usize,
}

impl Prefixes {
    /// `dims`: ascending ends of the prefixes.
    ///
    /// # Errors
    /// Ends that are not ascending numbers from 1 to the number of columns.
    pub fn new<E: Elem>(
        x: Matrix<E>,
        y: Matrix<E>,
        dims: &[usize],
        normalize: bool,
    ) -> Result<Prefixes, ArgumentError> {
        let ascending = dims.windows(2).all(|d| d[0] <= d[1]);
        if dims.is_empty() || !ascending || dims[0] == 0 || dims[dims.len() - 1] > x.columns {
            return Err(ArgumentError::Prefixes(x.columns));
        }
        let ranges: Vec<_> = std::iter::once(&0).chain(dims).zip(dims).map(|(&begin, &end)| (begin, end)).collect();
        let mut words = vec![0];
        for (begin, end) in &ranges {
            words.push(words[words.len() - 1] + (end - begin).div_ceil(E::PER_WORD));
        }
        let (x, y) = (Norms::new(x, &ranges, normalize), Norms::new(y, &ranges, normalize));
        Ok(Prefixes { ranges, words, x, y, normalized: normalize })
    }

    /// How many.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether scores are divided by norms.
    pub(crate) fn normalized(&self) -> bool {
        self.normalized
    }

    /// Words of a packed row: every range starts with a word of its own.
    pub fn words(&self) -> usize {
        self.words[self.len()]
    }

    /// The reciprocal norm of row `i` of x, which may lie past the last.
    #[inline(always)]
    pub(crate) fn inverse_x(&self, k: usize, i: usize) -> f32 {
        self.x.inverse[k * self.x.stride + i]
    }

    /// Those of y from row `j` on.
    #[inline(always)]
    pub(crate) fn inverse_y(&self, k: usize, j: usize) -> *const f32 {
        self.y.inverse[k * self.y.stride + j..].as_ptr()
    }

    /// (K, min(M, N)): the scores of rows with their own partners, summed in f64.
    pub fn own_scores<E: Elem>(&self, x: Matrix<E>, y: Matrix<E>, scale: f32) -> Vec<f32> {
        let rows = x.rows.min(y.rows);
        let mut out = filled(0f32, self.len() * rows);
        for i in 0..rows {
            let (mut dot, own) = (0f64, (x.row(i), y.row(i)));
            for (k, &(begin, end)) in self.ranges.iter().enumerate() {
                dot += own.0[begin..end]
                    .iter()
                    .zip(&own.1[begin..end])
                    .map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32()))
                    .sum::<f64>();
                let norms = f64::from(self.inverse_x(k, i)) * f64::from(self.y.inverse[k * self.y.stride + i]);
                out[k * rows + i] = (f64::from(scale) * norms * dot) as f32;
            }
        }
        out
    }

    /// Scores of prefix `k` into `strip`, as [`Scoring::strip`] does for whole rows. `dot` carries the running inner products from one
    /// prefix to the next.
    ///
    /// # Safety
    /// As for [`Scoring::strip`]; `dot` is as large as `strip`, and the prefix before `k` was the last that was asked for.
    #[inline(always)]
    pub(crate) unsafe fn strip<S: Simd, E: Elem, const MR: usize>(
        &self,
        scoring: &Scoring,
        k: usize,
        (a, i0): (*const f32, usize),
        (b, j0, columns): (*const f32, usize, usize),
        dot: *mut f32,
        (strip, stride): (*mut f32, usize),
    ) -> (f32, f32) {
        let nr = NV * S::W;
        let columns = columns.next_multiple_of(nr);
        let (before, words) = (self.words[k], self.words[k + 1] - self.words[k]);
        // SAFETY: the caller's promise.
        unsafe {
            let by_row: [f32; MR] = std::array::from_fn(|r| scoring.unit * self.inverse_x(k, i0 + r));
            let (mut high, mut low) = (S::splat(f32::NEG_INFINITY), S::splat(f32::INFINITY));
            for c in (0..columns).step_by(nr) {
                let panel = b.add(c * scoring.words + before * nr);
                let acc = tile_packed::<S, E, MR>(words, a.add(before * MR), panel);
                for v in 0..NV {
                    let by_column = S::load(self.inverse_y(k, j0 + c + v * S::W));
                    for (r, lanes) in acc.iter().enumerate() {
                        let at = r * stride + c + v * S::W;
                        let sum = if k == 0 { lanes[v] } else { S::add(S::load(dot.add(at)), lanes[v]) };
                        let s = S::mul(S::mul(sum, by_column), S::splat(by_row[r]));
                        high = S::max(high, s);
                        low = S::min(low, s);
                        S::store(dot.add(at), sum);
                        S::store(strip.add(at), s);
                    }
                }
            }
            scoring.pairs.mask::<S, MR>(strip, stride, i0, (j0, columns));
            (S::max_lane(high), S::min_lane(low))
        }
    }
}

impl Norms {
    /// Sums of squares in f64: at a scale of 300 a last digit of a norm is 2e-5 of a whole column's coefficients.
    fn new<E: Elem>(x: Matrix<E>, ranges: &[(usize, usize)], normalize: bool) -> Norms {
        let stride = x.rows + PADDING;
        let mut inverse = filled(if normalize { 0.0 } else { 1.0 }, ranges.len() * stride);
        for i in 0..if normalize { x.rows } else { 0 } {
            let (mut square, row) = (0f64, x.row(i));
            for (k, &(begin, end)) in ranges.iter().enumerate() {
                square += sum_of_squares(&row[begin..end]);
                inverse[k * stride + i] = (1.0 / square.sqrt().max(EPSILON)) as f32;
            }
        }
        Norms { inverse, stride }
    }
}

fn sum_of_squares<E: Elem>(values: &[E]) -> f64 {
    let mut lanes = [0f64; 8];
    for (d, v) in values.iter().enumerate() {
        lanes[d % 8] += f64::from(v.to_f32()).powi(2);
    }
    lanes.iter().sum()
}
