//! Similarities that are made of vectors when they are looked at: `s_ij = unit · <x_i, x_j> + bias_i + bias_j`, at least 0 by the caller's
//! choice of biases. All rows are multiplied with a panel of candidates, and a tile of similarities is summed while it is in registers.

use super::Similarity;
use crate::buffer::{Buffer, Shared};
use crate::error::{ArgumentError, length};
use crate::simd::{Isa, Kernel, NV, Simd, tile_shape};
use crate::stop::filled;
use crate::team;
use crate::tile::{Matrix, pack_panels, tile_packed};

/// Rows of a unit; a multiple of every tile's rows.
const ROWS: usize = 960;
/// Rows that are summed in float32, before float64.
const RUN: usize = 48;
/// Lanes of the widest panel.
const WIDEST: usize = 32;
/// A float32 similarity is off by less than this share of the largest there can be, sums in chains of 128 products.
const SLACK: f64 = 1e-4;

/// Items that are candidates for one another.
pub struct Vectors<'a> {
    x: Matrix<'a, f32>,
    unit: f32,
    /// Readable past the last row.
    bias: Vec<f32>,
    /// Infinite past the last row.
    cover: Vec<f32>,
    owners: Vec<i64>,
    rows: Buffer,
    /// No similarity is larger.
    largest: f64,
    threads: usize,
    isa: Isa,
}

/// What becomes of a tile of similarities.
#[derive(Clone, Copy)]
enum Wanted {
    /// Gains over the cover.
    Gains,
    /// The similarities with the first candidate of the panel.
    Scores(Shared<f32>),
}

impl<'a> Vectors<'a> {
    /// # Errors
    /// Lengths that differ, values that are not finite or so large that similarities are not, 2^32 rows.
    pub fn new(
        x: Matrix<'a, f32>,
        unit: f32,
        bias: &[f32],
        threads: usize,
        isa: Isa,
    ) -> Result<Vectors<'a>, ArgumentError> {
        length("bias", x.rows, bias.len())?;
        if !(x.finite() && unit.is_finite() && bias.iter().all(|b| b.is_finite())) {
            return Err(ArgumentError::Value("vectors, bias: wanted finite values".into()));
        }
        if u32::try_from(x.rows).is_err() {
            return Err(ArgumentError::Value(format!("vectors: wanted fewer than 2^32 rows, got {}", x.rows)));
        }
        let square = |i: usize| x.row(i).iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let longest = (0..x.rows).map(square).fold(0.0, f64::max);
        let widest = bias.iter().map(|b| f64::from(b.abs())).fold(0.0, f64::max);
        let largest = f64::from(unit.abs()) * longest + 2.0 * widest;
        if largest * 2.0 * RUN as f64 > f64::from(f32::MAX) {
            return Err(ArgumentError::Value(format!(
                "vectors: wanted similarities below 1e36, got up to {largest:e}"
            )));
        }
        let (n, k, (mr, _)) = (x.rows, x.words(), tile_shape(isa));
        let (mut padded, mut cover) = (bias.to_vec(), vec![0.0; n]);
        padded.resize(n + 16, 0.0);
        cover.resize(n + 16, f32::INFINITY);
        let mut rows = Buffer::new(n.next_multiple_of(mr) * k);
        let (to, units) = (rows.shared(), n.div_ceil(ROWS));
        team::run(threads.min(units), |team| {
            team.for_each(units, |u| {
                // SAFETY: units write their own rows.
                unsafe { pack_panels(&x, u * ROWS, n.min((u + 1) * ROWS), mr, to.at(u * ROWS * k)) }
            });
        });
        Ok(Vectors { x, unit, bias: padded, cover, owners: vec![-1; n], rows, largest, threads, isa })
    }

    /// All rows against `candidates`: their gains, where those are wanted.
    fn multiply(&self, candidates: &[u32], wanted: Wanted) -> Vec<f64> {
        let (n, k, (_, width)) = (self.x.rows, self.x.words(), tile_shape(self.isa));
        let (panels, blocks) = (candidates.len().div_ceil(width), n.div_ceil(ROWS));
        let gathered: Vec<f32> = candidates.iter().flat_map(|&j| self.x.row(j as usize)).copied().collect();
        let gathered = Matrix::new(&gathered, candidates.len(), self.x.columns);
        let mut packed = Buffer::new(panels * width * k);
        // SAFETY: the buffer holds all panels.
        unsafe { pack_panels(&gathered, 0, candidates.len(), width, packed.as_mut_ptr()) };
        let packed = packed.shared();
        let mut biases: Vec<f32> = candidates.iter().map(|&j| self.bias[j as usize]).collect();
        biases.resize(panels * width, 0.0);
        let mut sums = filled(0f64, blocks * panels * width);
        let to = Shared::of(&mut sums);
        team::run(self.threads.min(blocks * panels), |team| {
            team.for_each(blocks * panels, |u| {
                let (block, p) = (u / panels, u % panels);
                // SAFETY: the panels were packed; units write their own sums, or the scores of their own rows.
                let (panel, sums) =
                    unsafe { (packed.at(p * width * k), std::slice::from_raw_parts_mut(to.at(u * width), width)) };
                let rows = (block * ROWS, n.min((block + 1) * ROWS));
                self.isa.run(Block { of: self, rows, panel, bias: &biases[p * width..][..width], sums, wanted });
            });
        });
        let mut out = vec![0f64; panels * width];
        for of_block in sums.chunks_exact((panels * width).max(1)) {
            out.iter_mut().zip(of_block).for_each(|(sum, part)| *sum += part);
        }
        out.truncate(candidates.len());
        out
    }
}

/// Some rows and one panel of candidates.
struct Block<'a> {
    of: &'a Vectors<'a>,
    rows: (usize, usize),
    panel: *const f32,
    bias: &'a [f32],
    sums: &'a mut [f64],
    wanted: Wanted,
}

impl Kernel for Block<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let Block { of, rows: (i0, i1), panel, bias, sums, wanted } = self;
        let k = of.x.words();
        // SAFETY: rows are packed in panels of MR, the panel and its biases have the lanes of a tile, cover and biases are padded.
        unsafe {
            let (unit, zero) = (S::splat(of.unit), S::splat(0.0));
            let columns: [S::V; NV] = std::array::from_fn(|v| S::load(bias.as_ptr().add(v * S::W)));
            let mut run = [zero; NV];
            for i in (i0..i1).step_by(MR) {
                let acc = tile_packed::<S, f32, MR>(k, of.rows.as_ptr().add(i * k), panel);
                for (r, lanes) in acc.iter().enumerate() {
                    let (row, cover) = (S::splat(of.bias[i + r]), S::splat(of.cover[i + r]));
                    let scores: [S::V; NV] = std::array::from_fn(|v| S::add(S::fma(lanes[v], unit, row), columns[v]));
                    match wanted {
                        Wanted::Gains => {
                            for (sum, s) in run.iter_mut().zip(scores) {
                                *sum = S::add(*sum, S::max(S::sub(s, cover), zero));
                            }
                        }
                        Wanted::Scores(to) if i + r < i1 => {
                            let mut first = [0f32; WIDEST];
                            S::store(first.as_mut_ptr(), scores[0]);
                            *to.at(i + r) = first[0];
                        }
                        Wanted::Scores(_) => {}
                    }
                }
                if (i + MR - i0).is_multiple_of(RUN) || i + MR >= i1 {
                    let mut lanes = [0f32; WIDEST];
                    for (v, sum) in run.iter_mut().enumerate() {
                        S::store(lanes.as_mut_ptr().add(v * S::W), *sum);
                        *sum = zero;
                    }
                    sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum += f64::from(lane));
                }
            }
        }
    }
}

impl Similarity for Vectors<'_> {
    fn candidates(&self) -> usize {
        self.x.rows
    }

    /// While nothing is covered, a gain is linear in the vectors: `Σ_i s_ij = unit · <Σ_i x_i, x_j> + Σ_i bias_i + n · bias_j`.
    fn bounds(&self) -> Vec<f64> {
        let (n, bias) = (self.x.rows, &self.bias[..self.x.rows]);
        let mut sum = vec![0f64; self.x.columns];
        for i in 0..n {
            sum.iter_mut().zip(self.x.row(i)).for_each(|(to, &v)| *to += f64::from(v));
        }
        let all: f64 = bias.iter().map(|&b| f64::from(b)).sum();
        let unit = f64::from(self.unit);
        let slack = SLACK * n as f64 * self.largest;
        let dot = |j: usize| self.x.row(j).iter().zip(&sum).map(|(&v, s)| f64::from(v) * s).sum::<f64>();
        (0..n).map(|j| unit * dot(j) + all + n as f64 * f64::from(bias[j]) + slack).collect()
    }

    fn together(&self) -> usize {
        tile_shape(self.isa).1
    }

    fn gains(&mut self, candidates: &[u32]) -> Vec<f64> {
        self.multiply(candidates, Wanted::Gains)
    }

    fn choose(&mut self, j: u32, number: usize) {
        let mut scores = vec![0f32; self.x.rows];
        self.multiply(&[j], Wanted::Scores(Shared::of(&mut scores)));
        for (i, s) in scores.into_iter().enumerate() {
            if self.owners[i] < 0 || s > self.cover[i] {
                self.cover[i] = self.cover[i].max(s);
                self.owners[i] = number as i64;
            }
        }
    }

    fn owners(&self) -> &[i64] {
        &self.owners
    }
}
