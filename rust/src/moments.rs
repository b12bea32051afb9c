//! What a row's scores look like, strip by strip: log-sum-exp at several scales, the largest, mean and variance.
//!
//! Variances are merged: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).

use crate::buffer::{Shared, results};
use crate::error::ArgumentError;
use crate::largest::Largest;
use crate::logsum::LogSum;
use crate::simd::Simd;
use crate::simd::math::exp2;

/// Statistics of rows over a bank.
pub struct Stats {
    /// (betas, rows): log Σ exp(beta · s), −∞ for an empty bank.
    pub lse: Vec<f64>,
    /// Means.
    pub mean: Vec<f64>,
    /// Population variances.
    pub var: Vec<f64>,
    /// (k, rows): the k largest scores in descending order, padded with −∞.
    pub top: Vec<f32>,
}

impl Stats {
    /// What `walk` leaves in the state of each of `rows` rows, which it shows all scores with a bank of `n`; `k` of them are kept.
    pub(crate) fn collect(
        (rows, n): (usize, usize),
        betas: &[f32],
        k: usize,
        walk: impl FnOnce(Shared<Moments>),
    ) -> Result<Stats, ArgumentError> {
        if !betas.iter().all(|b| b.is_finite()) {
            return Err(ArgumentError::Value("betas: wanted finite values".into()));
        }
        let mut top = results(k, rows, f32::NEG_INFINITY)?;
        let mut moments: Vec<Moments> = (0..rows).map(|_| Moments::new(betas.len(), k.min(n))).collect();
        walk(Shared::of(&mut moments));
        let lse = (0..betas.len()).flat_map(|b| moments.iter().map(move |m| m.sums[b].ln())).collect();
        let mean = moments.iter().map(|m| m.mean).collect();
        let var = moments.iter().map(|m| m.about / m.count.max(1.0)).collect();
        for (j, row) in moments.into_iter().enumerate() {
            for (t, score) in row.top.into_sorted().into_iter().enumerate() {
                top[t * rows + j] = score;
            }
        }
        Ok(Stats { lse, mean, var, top })
    }
}

/// One row's state.
pub(crate) struct Moments {
    count: f64,
    mean: f64,
    /// Sum of squares about the mean.
    about: f64,
    sums: Vec<LogSum>,
    top: Largest,
}

impl Moments {
    fn new(betas: usize, k: usize) -> Moments {
        Moments { count: 0.0, mean: 0.0, about: 0.0, sums: vec![LogSum::EMPTY; betas], top: Largest::new(k) }
    }

    fn merge(&mut self, count: f64, mean: f64, about: f64) {
        let all = self.count + count;
        let apart = mean - self.mean;
        self.about += about + apart * apart * (self.count * count / all);
        self.mean += apart * (count / all);
        self.count = all;
    }

    /// Further scores `s`.
    ///
    /// # Safety
    /// `S` is available; `room` is [`crate::largest::room`] for strips of so many scores, all of which are finite.
    #[inline(always)]
    pub(crate) unsafe fn add<S: Simd>(&mut self, s: &[f32], betas: &[f32], room: &mut [f32]) {
        let whole = s.len() / S::W * S::W;
        let (count, rest) = (s.len() as f64, &s[whole..]);
        // SAFETY: vectors are loaded from within s.
        unsafe {
            let at = |c: usize| S::load(s.as_ptr().add(c));
            // A sum of large scores is rounded; that of their distances from about their mean is not.
            let center =
                if self.count > 0.0 { self.mean } else { s.iter().map(|&v| f64::from(v)).sum::<f64>() / count };
            let center = center as f32;
            let (mut sum, mut squares) = (S::splat(0.0), S::splat(0.0));
            let (mut high, mut low) = (S::splat(f32::NEG_INFINITY), S::splat(f32::INFINITY));
            for c in (0..whole).step_by(S::W) {
                let off = S::sub(at(c), S::splat(center));
                sum = S::add(sum, off);
                squares = S::fma(off, off, squares);
                high = S::max(high, at(c));
                low = S::min(low, at(c));
            }
            let (high, low) = (
                rest.iter().fold(S::max_lane(high), |m, &v| m.max(v)),
                rest.iter().fold(S::min_lane(low), |m, &v| m.min(v)),
            );
            let (mut sum, mut squares) = (f64::from(S::sum(sum)), f64::from(S::sum(squares)));
            for v in rest {
                let off = f64::from(*v) - f64::from(center);
                sum += off;
                squares += off * off;
            }
            self.merge(count, f64::from(center) + sum / count, (squares - sum * sum / count).max(0.0));
            for (beta, to) in betas.iter().zip(&mut self.sums) {
                let unit = beta * std::f32::consts::LOG2_E;
                let reference = (if unit < 0.0 { unit * low } else { unit * high }).ceil();
                let mut sum = S::splat(0.0);
                for c in (0..whole).step_by(S::W) {
                    sum = S::add(sum, exp2::<S>(S::fma(at(c), S::splat(unit), S::splat(-reference))));
                }
                let rest: f64 =
                    rest.iter().map(|&v| (f64::from(v) * f64::from(unit) - f64::from(reference)).exp2()).sum();
                to.add(f64::from(reference), f64::from(S::sum(sum)) + rest);
            }
            self.top.add::<S>(s, high, room);
        }
    }
}
