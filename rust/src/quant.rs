//! Bytes in place of floats, and how far a first pass can be from the score it stands for.
//!
//! # The codes
//! A row x becomes `x̂ = s q` with 8-bit integers q and `s = max|x_d| / 127`. Rows of the columns' side are kept signed, queries are
//! shifted to `q + 128`, as the byte product of the hardware wants it; `−128 Σ q_y` is where the accumulators start. Sums of
//! bytes are exact: |Σ (q_x + 128) q_y| <= 255 · 127 · D < 2^31 for `D <= MAX_COLUMNS`.
//!
//! A few coordinates of the vectors are often much larger than the others and would set the scale for all; up to [`MAX_HEAVY`] of them
//! ("heavy") stay in f32 and are 0 in the codes: x and y below are the vectors without them.
//!
//! # The bound
//! The pass compares `v = fl(A_j · acc + w_i · B_j)` with thresholds; the score e_ij that is reported comes from f64 arithmetic on the
//! f32 vectors. Both are related to `V_ij = w_i · score_ij` in real numbers, where w_i > 0 turns scores of row i into the unit of v,
//! α_j is the column's real factor (item scale, over ‖y_j‖ for cosines) and β_j its offset. u = 2^-24.
//!
//! 1. *Quantisation.* |x·y − x̂·ŷ| = |x·(y−ŷ) + (x−x̂)·ŷ| <= ‖x‖ ‖y−ŷ‖ + ‖x−x̂‖ ‖ŷ‖ (Cauchy–Schwarz). In units of s_x:
//!    `(‖q_x‖ + r_x) |α_j| ‖y−ŷ‖ + r_x |α_j| ‖ŷ‖` with `r_x >= ‖x/s_x − q_x‖`, as ‖x‖ <= s_x (‖q_x‖ + r_x).
//! 2. *The residual r.* `t_d = fl(x_d · fl(1/s))` is off x_d / s by at most 127.1 · 3u < 2^-15 each, so by √D · 2^-15 in norm;
//!    t_d − q_d is exact (q_d is the nearest integer); its squares are summed in 16 chains of f32, of relative error at most
//!    (D/16 + 20) u < 2^-11, covered by the factor 1 + 2^-10; 2^-40 covers squares that underflow. Σ q² <= 127² · D < 2^31 is exact.
//! 3. *f32 products.* Without codes step 1 is replaced by the rounding of the sum: every product passes at most
//!    `n = min(D, 128) + ⌈D/128⌉ + 1` roundings, so the error is at most `γ_n ‖x‖ ‖y‖`, γ_n = n u / (1 − n u) [1], plus D · 2^-125 |A_j|
//!    for underflow, flushed to zero or not.
//! 4. *Epilogue.* `v = A_j acc + w_i B_j + Σ_h fl(x_h / s_x) fl(α_j y_h)`, added in this order. Conversion of acc, A_j, their product, the
//!    sum and the comparison against a rounded threshold each cost at most u of |A_j acc|; w_i, B_j, their product, the sum and the
//!    comparison at most u of |w_i B_j|; no more than 8 in either case, and one more for each of the 5 heavy coordinates. The
//!    heavy products themselves pass no more. All three are counted as `16 u`, of `‖x_h‖ / s_x · |α| ‖y_h‖` for the last. Underflow, flushed to
//!    zero or not: at most 2^-126 · 2^40, as neither heavy factor exceeds 2^40, and 2^-126 · 2^31 for A_j; counted as 2^-80.
//! 5. *f64.* Products of two f32 are exact in f64; D sums and at most 8 further operations cost (D + 8) 2^-53 of the terms' norm, far
//!    below the difference between the 13 and the 16 u of step 4 for D <= 2^24. For squared distances δ the unit is
//!    `w (‖x‖² − δ) / 2 = w (x·y − ‖y‖²/2)`; δ <= 2‖x‖² + 2‖y‖² carries a relative (D + 8) 2^-52, whose first part is the row's `error`
//!    and whose second is in the 16 u of B.
//! 6. *The bound itself* is evaluated in f32: a dot product of five non-negative numbers, each rounded up; its own rounding and that
//!    of `v ± error` are within the factor 1 + 2^-10 that all terms of a row carry.
//!
//! So |v − w_i e_ij| <= error_ib, with maxima over blocks of [`crate::scan::BLOCK`] columns: an outlier loosens only its own block.
//! A column too large or too small for steps 3 and 4 is passed as ŷ = 0, with all of ‖y‖ as its residual (or as an infinite β); a row is passed as zeros with
//! an infinite error, so that exact scores decide alone.
//!
//! [1] Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1.

use crate::scan::{Query, Terms};
use crate::tile::CHAIN;

/// Elements of a row up to which sums of products of codes fit 32 bits.
pub const MAX_COLUMNS: usize = 65536;
/// Rows whose elements are all smaller become zero codes: 1 / s must not overflow.
const SMALLEST: f32 = f32::from_bits((127 - 100) << 23);
/// 2^100: what products of weights and offsets stay below.
const LARGEST: f64 = 1.267_650_600_228_229_4e30;
/// Coordinates that are kept in f32 beside the codes.
pub const MAX_HEAVY: usize = 5;
/// How many times the root mean square of all coordinates a heavy one's is: below this its codes are as good as the others'.
const HEAVY: f64 = 1.8;
/// Rows from which heavy coordinates are told.
const SAMPLE: usize = 1024;
/// 2^40: what heavy factors stay below.
const LARGE_HEAVY: f64 = (1u64 << 40) as f64;
/// 2^60: what factors, and the norms of f32 rows on either side, stay below.
pub const LARGE: f64 = (1u64 << 60) as f64;
const U: f64 = 1.0 / (1u32 << 24) as f64;
/// Steps 4 and 5.
const EPILOGUE: f64 = 16.0 * U;
/// Step 6.
pub const UP: f64 = 1.0 + 1.0 / 1024.0;
/// 2^-80
const UNDERFLOW: f64 = 8.271_806_125_530_277e-25;
/// 2^-125
pub const UNDERFLOW_F32: f64 = 2.350_988_701_644_575e-38;
const LANES: usize = 16;

/// What is known of a row besides its codes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantised {
    /// s
    pub scale: f32,
    /// Σ q
    pub sum: i32,
    /// ‖q‖
    pub norm: f64,
    /// At least ‖x / s − q‖.
    pub residual: f64,
}

/// Codes of a row. Finite elements, `codes.len() == row.len() <= MAX_COLUMNS`. Compiled with the features of its caller.
#[inline(always)]
pub fn quantise(row: &[f32], codes: &mut [u8]) -> Quantised {
    // Adding 1.5 · 2^23 rounds to the nearest integer and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let mut most = [0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (m, v) in most.iter_mut().zip(chunk) {
            let v = v.abs();
            *m = if v > *m { v } else { *m };
        }
    }
    let most = rest.iter().map(|v| v.abs()).chain(most).fold(0f32, f32::max);
    let root = (row.len() as f64).sqrt();
    if most < SMALLEST {
        codes.fill(0);
        return Quantised { scale: 1.0, sum: 0, norm: 0.0, residual: f64::from(most) * root * UP };
    }
    let scale = most / 127.0;
    let inverse = 1.0 / scale;
    let (mut sum, mut squares, mut off) = ([0i32; LANES], [0i32; LANES], [0f32; LANES]);
    let mut step = |chunk: &[f32], codes: &mut [u8]| {
        for l in 0..chunk.len() {
            let t = chunk[l] * inverse;
            let raised = t + MAGIC;
            let q = raised.to_bits() as i32 - MAGIC.to_bits() as i32;
            let r = t - (raised - MAGIC);
            codes[l] = q as u8;
            sum[l] += q;
            squares[l] += q * q;
            off[l] += r * r;
        }
    };
    let (whole, rest) = row.as_chunks::<LANES>();
    let (whole_codes, rest_codes) = codes.as_chunks_mut::<LANES>();
    for (chunk, codes) in whole.iter().zip(whole_codes) {
        step(chunk, codes);
    }
    step(rest, rest_codes);
    let off = f64::from(off.iter().sum::<f32>());
    Quantised {
        scale,
        sum: sum.iter().sum(),
        norm: f64::from(squares.iter().sum::<i32>()).sqrt(),
        residual: (off * UP + UNDERFLOW).sqrt() * UP + root / 32768.0 + 1.0 / (1u64 << 40) as f64,
    }
}

/// The columns of `vectors` (n, d) that are much larger than the rest, at most [`MAX_HEAVY`], the largest first.
pub fn heavy(vectors: &[f32], d: usize) -> Vec<usize> {
    let n = vectors.len() / d;
    let mut squares = vec![0f64; d];
    for i in (0..n).step_by(n.div_ceil(SAMPLE).max(1)) {
        for (sum, v) in squares.iter_mut().zip(&vectors[i * d..][..d]) {
            *sum += f64::from(*v) * f64::from(*v);
        }
    }
    let least = HEAVY * HEAVY * squares.iter().sum::<f64>() / d as f64;
    let mut heavy: Vec<usize> = (0..d).filter(|&t| squares[t] > least).collect();
    heavy.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]));
    heavy.truncate(MAX_HEAVY);
    heavy
}

/// γ_n of a sum of d products in f32, step 3.
pub fn gamma(d: usize) -> f64 {
    let n = (d.min(CHAIN) + d.div_ceil(CHAIN) + 1) as f64 * U;
    n / (1.0 - n)
}

/// Rounded up.
pub fn up(x: f64) -> f32 {
    (x as f32).next_up()
}

/// Rounded down, when the relative error of x is below 2^-34.
pub fn down(x: f64) -> f32 {
    ((x - x.abs() / (1u64 << 34) as f64) as f32).next_down()
}

/// What the bound needs of a column: real numbers, rounded up by its user.
#[derive(Clone, Copy, Default)]
pub struct Column {
    /// |α|
    pub factor: f64,
    /// ‖y − ŷ‖; 0 without codes.
    pub residual: f64,
    /// ‖ŷ‖, or ‖y‖ without codes.
    pub norm: f64,
    /// ‖y_h‖
    pub heavy: f64,
    /// |β|
    pub offset: f64,
}

impl Column {
    /// Whether steps 3 and 4 hold for accumulators that are multiplied by `factor`; otherwise the column counts as ŷ = 0.
    pub fn passes(&mut self, factor: f64, codes: bool) -> bool {
        let passes = factor.abs() < LARGE && (codes || self.norm < LARGE) && self.factor * self.heavy < LARGE_HEAVY;
        if !passes {
            self.residual += self.norm;
            self.norm = 0.0;
            // Nothing bounds x_h · y_h any more.
            if self.heavy > 0.0 {
                (self.heavy, self.offset) = (0.0, f64::INFINITY);
            }
        }
        passes
    }

    /// β, or 0 where it is so large that the column is a candidate for every row.
    pub fn small_offset(&mut self, beta: f64) -> f64 {
        if beta.abs() < LARGE {
            return beta;
        }
        self.offset = f64::INFINITY;
        0.0
    }
}

/// The maxima of a block: |α| ‖y−ŷ‖, |α| ‖ŷ‖, |β|, |α| ‖y_h‖, and what underflow can do.
pub fn bounds(columns: &[Column], d: usize, codes: bool) -> Terms {
    let most = |f: &dyn Fn(&Column) -> f64| up(columns.iter().map(f).fold(0.0, f64::max) * UP);
    let underflow = |c: &Column| if codes { UNDERFLOW } else { d as f64 * UNDERFLOW_F32 * (1.0 + c.factor) };
    [
        most(&|c| c.factor * c.residual),
        most(&|c| c.factor * c.norm),
        most(&|c| c.offset),
        most(&|c| c.factor * c.heavy),
        most(&underflow),
    ]
}

/// A row's side of the bound.
#[derive(Clone, Copy)]
pub struct Row {
    /// What turns its scores into V without codes.
    pub unit: f64,
    /// ‖x‖ with the heavy coordinates, to a relative 2^-20.
    pub norm: f64,
    /// ‖x_h‖, likewise.
    pub heavy: f64,
    /// What rotated vectors' products are off beside that, as a share of `heavy` and its like on the other side.
    pub rotation: f64,
    /// ‖x‖² for squared distances: it scales the error of their f64 arithmetic.
    pub square: Option<f64>,
}

impl Row {
    /// For products of codes. `offset`: the largest |β|.
    pub fn with_codes(&self, q: &Quantised, d: usize, offset: f64) -> (Query, f64) {
        let terms = [q.norm + q.residual, q.residual + EPILOGUE * q.norm];
        let scale = f64::from(q.scale);
        self.query(self.unit / scale, terms, self.heavy / scale, d, offset)
    }

    /// For products in f32.
    pub fn with_floats(&self, d: usize, offset: f64) -> (Query, f64) {
        let gamma = gamma(d) + EPILOGUE;
        self.query(self.unit, [self.norm, gamma * self.norm], 0.0, d, offset)
    }

    /// And w. An infinite error where a premise fails.
    fn query(&self, weight: f64, [p, q]: [f64; 2], heavy: f64, d: usize, offset: f64) -> (Query, f64) {
        // Step 5.
        let error = weight * self.square.unwrap_or(0.0) * (d as f64 + 8.0) / (1u64 << 51) as f64;
        let query = if !(self.norm < LARGE
            && heavy < LARGE_HEAVY
            && weight > 1.0 / LARGEST
            && weight + weight * offset + error < LARGEST)
        {
            Query { error: f32::INFINITY, ..Query::PLAIN }
        } else if self.norm == 0.0 && self.square.is_none() {
            // v = B_j, exactly.
            Query::PLAIN
        } else {
            let terms =
                [up(p * UP), up(q * UP), up(EPILOGUE * weight * UP), up((EPILOGUE + self.rotation) * heavy * UP), 1.0];
            Query { weight: weight as f32, terms, error: if error > 0.0 { up(error * UP) } else { 0.0 } }
        };
        (query, weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact_residual(row: &[f32], codes: &[u8], scale: f32) -> f64 {
        let error = |(x, q): (&f32, &u8)| f64::from(*x) / f64::from(scale) - f64::from(*q as i8);
        row.iter().zip(codes).map(error).map(|e| e * e).sum::<f64>().sqrt()
    }

    proptest! {
        #[test]
        fn residuals_bound_the_error_of_codes(
            row in proptest::collection::vec((-1f32..1.0, -40i32..40), 1..200), level in -80i32..80
        ) {
            let row: Vec<f32> = row.iter().map(|(m, e)| m * (f64::from(*e + level)).exp2() as f32).collect();
            let mut codes = vec![0; row.len()];
            let q = quantise(&row, &mut codes);
            prop_assert!(exact_residual(&row, &codes, q.scale) <= q.residual);
            prop_assert_eq!(q.sum, codes.iter().map(|c| i32::from(*c as i8)).sum::<i32>());
            let norm: f64 = codes.iter().map(|c| f64::from(*c as i8).powi(2)).sum();
            prop_assert_eq!(q.norm, norm.sqrt());
        }
    }

    #[test]
    fn denormal_and_zero_rows_become_zero_codes() {
        for value in [0.0, 1e-40, 7e-31] {
            let (row, mut codes) = ([value; 20], [1; 20]);
            let q = quantise(&row, &mut codes);
            assert_eq!(codes, [0; 20]);
            assert!(exact_residual(&row, &codes, q.scale) <= q.residual);
        }
    }

    #[test]
    fn the_largest_row_fits_and_rounds_to_127() {
        let (row, mut codes) = ([f32::MAX, f32::MIN, 0.0], [0; 3]);
        assert_eq!(quantise(&row, &mut codes).sum, 0);
        assert_eq!(codes, [127, 129, 0]);
    }
}
