//! What the columns of a similarity matrix look like from a bank: log-sum-exp at several scales, the largest scores, mean and variance.
//!
//! Rows here are the vectors that statistics are wanted of; the bank passes by in strips. The variance is merged strip by strip: Chan,
//! Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).

use crate::buffer::{Buffer, Shared, results};
use crate::error::ArgumentError;
use crate::logsum::LogSum;
use crate::pairs::{PairArgs, Pairs};
use crate::select::{Candidate, Selector};
use crate::simd::math::exp2;
use crate::simd::{Isa, Kernel, Simd, tile_shape};
use crate::strip::{STRIP, Scoring};
use crate::team;
use crate::tile::{Elem, Matrix, pack_panels};

/// Rows of a unit; a multiple of every tile's rows.
const ROWS: usize = 48;
const STRIDE: usize = STRIP + 16;
/// Columns packed at a time.
const PACKED_COLUMNS: usize = 24 * STRIP;

/// Statistics of each row of y over a bank.
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

/// One row's state.
struct Moments {
    count: f64,
    mean: f64,
    /// Sum of squares about the mean.
    about: f64,
    sums: Vec<LogSum>,
    top: Selector,
}

impl Moments {
    fn new(betas: usize, k: usize) -> Moments {
        Moments { count: 0.0, mean: 0.0, about: 0.0, sums: vec![LogSum::EMPTY; betas], top: Selector::new(k) }
    }

    fn merge(&mut self, count: f64, mean: f64, about: f64) {
        let all = self.count + count;
        let apart = mean - self.mean;
        self.about += about + apart * apart * (self.count * count / all);
        self.mean += apart * (count / all);
        self.count = all;
    }

    /// Scores `s` of columns `j0..`.
    #[inline(always)]
    unsafe fn add<S: Simd>(&mut self, s: &[f32], j0: usize, betas: &[f32]) {
        let whole = s.len() / S::W * S::W;
        let (count, rest) = (s.len() as f64, &s[whole..]);
        // SAFETY: vectors are loaded from within s.
        unsafe {
            let at = |c: usize| S::load(s.as_ptr().add(c));
            let (mut sum, mut high) = (S::splat(0.0), S::splat(f32::NEG_INFINITY));
            let mut low = S::splat(f32::INFINITY);
            for c in (0..whole).step_by(S::W) {
                sum = S::add(sum, at(c));
                high = S::max(high, at(c));
                low = S::min(low, at(c));
            }
            // A sum of large scores is rounded; that of their distances from it is not.
            let center = ((f64::from(S::sum(sum)) + rest.iter().map(|&v| f64::from(v)).sum::<f64>()) / count) as f32;
            let (high, low) = (
                rest.iter().fold(S::max_lane(high), |m, &v| m.max(v)),
                rest.iter().fold(S::min_lane(low), |m, &v| m.min(v)),
            );
            let (mut sum, mut squares) = (S::splat(0.0), S::splat(0.0));
            for c in (0..whole).step_by(S::W) {
                let off = S::sub(at(c), S::splat(center));
                sum = S::add(sum, off);
                squares = S::fma(off, off, squares);
            }
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
            for c in (0..whole).step_by(S::W) {
                let mut mask = S::gt(at(c), S::splat(self.top.threshold()));
                while mask != 0 {
                    let l = mask.trailing_zeros() as usize;
                    mask &= mask - 1;
                    self.keep(s[c + l], j0 + c + l);
                }
            }
            for (l, &v) in rest.iter().enumerate() {
                self.keep(v, j0 + whole + l);
            }
        }
    }

    fn keep(&mut self, s: f32, j: usize) {
        if s > self.top.threshold() && self.top.push(Candidate { lower: s, upper: s, id: j as u32 }) {
            self.top.cut();
        }
    }
}

/// Rows `i0..` of y against packed columns `j0..j1` of the bank.
struct Unit<'a, E> {
    y: Matrix<'a, E>,
    scoring: &'a Scoring<'a>,
    i0: usize,
    columns: (usize, usize),
    packed: *const f32,
    betas: &'a [f32],
    panels: &'a mut Buffer,
    strip: &'a mut Buffer,
    moments: &'a mut [Moments],
}

impl<E: Elem> Kernel for Unit<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let k = self.scoring.words;
        let (panels, strip) = (self.panels.as_mut_ptr(), self.strip.as_mut_ptr());
        let i1 = self.i0 + self.moments.len();
        // SAFETY: the buffers hold a unit's rows and a strip; the packed columns are these.
        unsafe {
            pack_panels(&self.y, self.i0, i1, MR, panels);
            for j0 in (self.columns.0..self.columns.1).step_by(STRIP) {
                let live = STRIP.min(self.columns.1 - j0);
                let b = self.packed.add((j0 - self.columns.0) * k);
                for (p, i) in (self.i0..i1).step_by(MR).enumerate() {
                    self.scoring.strip::<S, E, MR>((panels.add(p * MR * k), i), (b, j0, live), strip, STRIDE);
                    for r in 0..MR.min(i1 - i) {
                        let scores = std::slice::from_raw_parts(strip.add(r * STRIDE), live);
                        self.moments[i - self.i0 + r].add::<S>(scores, j0, self.betas);
                    }
                }
            }
        }
    }
}

/// Statistics of `<bank_i, y_j>` over i, for every row j of y; `k` scores are kept. The same bits for any number of threads.
///
/// # Errors
/// Values that are not finite, more than 2^32 rows in the bank, more results than memory.
///
/// # Panics
/// When bank and y differ in their number of columns.
pub fn pair_stats<E: Elem>(
    bank: Matrix<E>,
    y: Matrix<E>,
    betas: &[f32],
    k: usize,
    threads: usize,
    isa: Isa,
) -> Result<Stats, ArgumentError> {
    assert_eq!(bank.columns, y.columns);
    let (rows, n, words) = (y.rows, bank.rows, y.words());
    if n >= u32::MAX as usize {
        return Err(ArgumentError::Value(format!("bank: wanted fewer than 2^32 rows, got {n}")));
    }
    if !(bank.finite() && y.finite() && betas.iter().all(|b| b.is_finite())) {
        return Err(ArgumentError::Value("bank, y, betas: wanted finite values".into()));
    }
    let pairs = Pairs::new(&PairArgs::default(), rows, n, threads, isa)?;
    let scoring = Scoring::new(&y, 1.0, &pairs, None);
    let (_, nr) = tile_shape(isa);
    let width = PACKED_COLUMNS.min(n);
    let mut packed = Buffer::new(width.next_multiple_of(nr) * words);
    let packed = packed.shared();
    let top = results(k, rows, f32::NEG_INFINITY)?;
    let mut moments: Vec<Moments> = (0..rows).map(|_| Moments::new(betas.len(), k.min(n))).collect();
    let shared = Shared::of(&mut moments);
    team::run(threads, |team| {
        let (mut panels, mut strip) = (Buffer::new(ROWS * words), Buffer::new(16 * STRIDE));
        for from in (0..n).step_by(PACKED_COLUMNS) {
            let to = n.min(from + PACKED_COLUMNS);
            team.for_each((to - from).div_ceil(STRIP), |u| {
                let j0 = from + u * STRIP;
                // SAFETY: units write disjoint parts, and every phase ends with all threads waiting.
                unsafe { pack_panels(&bank, j0, to.min(j0 + STRIP), nr, packed.at((j0 - from) * words)) }
            });
            team.for_each(rows.div_ceil(ROWS), |u| {
                let i0 = u * ROWS;
                // SAFETY: as above.
                let (moments, packed) =
                    unsafe { (std::slice::from_raw_parts_mut(shared.at(i0), ROWS.min(rows - i0)), packed.at(0)) };
                isa.run(Unit {
                    y,
                    scoring: &scoring,
                    i0,
                    columns: (from, to),
                    packed,
                    betas,
                    panels: &mut panels,
                    strip: &mut strip,
                    moments,
                });
            });
        }
    });
    let mut out = Stats {
        lse: Vec::with_capacity(betas.len() * rows),
        mean: moments.iter().map(|m| m.mean).collect(),
        var: moments.iter().map(|m| m.about / m.count.max(1.0)).collect(),
        top,
    };
    for b in 0..betas.len() {
        out.lse.extend(moments.iter().map(|m| m.sums[b].ln()));
    }
    for (j, row) in moments.into_iter().enumerate() {
        for (t, c) in row.top.into_sorted().iter().enumerate() {
            out.top[t * rows + j] = c.lower;
        }
    }
    Ok(out)
}
