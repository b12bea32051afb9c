//! Sums of exponentials that carry their own exponent, and the reduction of a strip to them.
//!
//! A strip is reduced against one reference, its largest score, so that a single exponential serves rows and columns; where its scores span
//! too much for that, rows and columns each take their own maximum. Milakov & Gimelshein, arXiv:1805.02867; merging as in flash attention.

use crate::pairs::LEFT_OUT;
use crate::simd::math::{RAISE, exp, exp_raised, exp2, over_ln2, pow2};
use crate::simd::{NV, Simd};

/// Strips whose scores span less than this share a reference: no term then falls below 2^(RAISE - 160) of it, and merging two such sums
/// loses nothing above 2^-46.
const SPAN: f32 = 160.0 * std::f32::consts::LN_2;

/// 2^exponent · sum, with an integer-valued exponent: merging multiplies by exact powers of two.
#[derive(Clone, Copy, Debug)]
pub struct LogSum {
    exponent: f64,
    sum: f64,
}

impl LogSum {
    /// No terms.
    pub const EMPTY: LogSum = LogSum { exponent: LEFT_OUT as f64, sum: 0.0 };

    /// Add 2^exponent · sum.
    #[inline(always)]
    pub fn add(&mut self, exponent: f64, sum: f64) {
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
        if self.sum > 0.0 { self.exponent + self.sum.log2() } else { f64::NEG_INFINITY }
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
            let (top, rest) = split(high);
            let column_top = top as f32;
            let column_rest = (rest + (top - f64::from(column_top))).clamp(-100.0, 100.0).exp2() as f32;
            let (reference, raised) = (S::splat(high), S::splat(column_top - RAISE));
            let mut row = [zero; MR];
            for c in (0..columns).step_by(S::W) {
                let mut column = zero;
                for (r, row) in row.iter_mut().enumerate() {
                    let e = exp_raised::<S>(S::sub(S::load(strip.add(r * stride + c)), reference));
                    if ROW {
                        *row = S::add(*row, e);
                    }
                    if COLUMN {
                        column = S::add(column, e);
                    }
                }
                if COLUMN {
                    add_columns::<S>(column_sums, c, raised, S::mul(column, S::splat(column_rest)));
                }
            }
            if ROW {
                for (r, sum) in row.iter().take(rows).enumerate() {
                    (*row_sums.add(r)).add(top - f64::from(RAISE), f64::from(S::sum(*sum)) * rest.exp2());
                }
            }
            return;
        }
        let (log2_e, nothing) = (S::splat(std::f32::consts::LOG2_E), S::splat(0.5 * LEFT_OUT));
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
                let (reference, mut sum) = (S::splat(high), zero);
                for c in (0..columns).step_by(S::W) {
                    let below = S::sub(S::load(line.add(c)), reference);
                    sum = S::add(sum, exp::<S>(below));
                }
                let (top, rest) = split(high);
                (*row_sums.add(r)).add(top, f64::from(S::sum(sum)) * rest.exp2());
            }
        }
        if COLUMN {
            for c in (0..columns).step_by(S::W) {
                let mut max = S::splat(LEFT_OUT);
                for r in 0..MR {
                    max = S::max(max, S::load(strip.add(r * stride + c)));
                }
                let mut sum = zero;
                for r in 0..MR {
                    let below = S::sub(S::load(strip.add(r * stride + c)), max);
                    sum = S::add(sum, exp::<S>(below));
                }
                let top = S::round(S::mul(max, log2_e));
                let rest = S::max(S::min(over_ln2::<S>(max, top), S::splat(100.0)), S::splat(-100.0));
                sum = S::mul(sum, exp2::<S>(rest));
                add_columns::<S>(column_sums, c, top, S::select_gt(max, nothing, sum, zero));
            }
        }
    }
}

/// e^score as 2^(top + rest), top an integer. Of scores past 2^31 a column's f32 exponent leaves a rest beyond 100: their own rounding is larger.
fn split(score: f32) -> (f64, f64) {
    let exponent = f64::from(score) * std::f64::consts::LOG2_E;
    let top = exponent.round_ties_even();
    (top, exponent - top)
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
