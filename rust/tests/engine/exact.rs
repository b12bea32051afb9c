//! Inputs that are the same everywhere, and scores in float64.

use simtile_core::Isa;
use simtile_core::limits::GuideArgs;
use simtile_core::pairs::{Diagonal, IdsMode, PairArgs};
use simtile_core::tile::{Bf16, Elem, Matrix};

/// xorshift, so that inputs are the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn rows<E: Elem>(&mut self, rows: usize, columns: usize) -> Vec<E> {
        let norm = (columns as f32 / 3.0).sqrt();
        (0..rows * columns).map(|_| E::from_f32(self.next() / norm)).collect()
    }

    pub fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

pub fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|i| i.available())
}

/// Scores in float64, −∞ where left out, and the sign of each pair.
pub fn scores<E: Elem>(x: Matrix<E>, y: Matrix<E>, scale: f32, pairs: &PairArgs) -> Vec<Vec<(f64, f64)>> {
    (0..x.rows)
        .map(|i| {
            (0..y.rows)
                .map(|j| {
                    let dot: f64 =
                        x.row(i).iter().zip(y.row(j)).map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum();
                    let mut s = f64::from(scale) * dot;
                    s += pairs.x_bias.map_or(0.0, |b| f64::from(b[i])) + pairs.y_bias.map_or(0.0, |b| f64::from(b[j]));
                    let same = pairs.x_ids.zip(pairs.y_ids).map(|(x, y)| x[i] == y[j]);
                    let mut out = match (pairs.ids_mode, same) {
                        (IdsMode::Exclude, Some(same)) => same,
                        (IdsMode::Only, Some(same)) => !same,
                        _ => false,
                    };
                    out |= pairs.diagonal == Diagonal::Skip && i == j || pairs.diagonal == Diagonal::Above && j <= i;
                    out |= pairs
                        .indptr
                        .zip(pairs.indices)
                        .is_some_and(|(p, c)| c[p[i] as usize..p[i + 1] as usize].contains(&(j as i64)));
                    let guide: Option<f64> = match pairs.guide {
                        Some(GuideArgs::F32(x, y)) => {
                            Some(x.row(i).iter().zip(y.row(j)).map(|(a, b)| f64::from(a * b)).sum())
                        }
                        Some(GuideArgs::Bf16(x, y)) => {
                            Some(x.row(i).iter().zip(y.row(j)).map(|(a, b)| f64::from(a.to_f32() * b.to_f32())).sum())
                        }
                        None => None,
                    };
                    out |= pairs.threshold.is_some_and(|t| guide.unwrap_or(s) > f64::from(t[i]));
                    let flip = (pairs.diagonal == Diagonal::Flip && i == j)
                        || (pairs.ids_mode == IdsMode::Flip && same == Some(true));
                    let sign = if flip { -1.0 } else { 1.0 };
                    (if out { f64::NEG_INFINITY } else { sign * s }, sign)
                })
                .collect()
        })
        .collect()
}

pub fn lse(scores: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY { max } else { max + scores.map(|s| (s - max).exp()).sum::<f64>().ln() }
}

/// Half an ulp of 1: what one rounding to float32 costs.
pub const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// Scale times a few thousand coefficients that are too small for a normal float32.
pub const NOTHING: f64 = 1e-32;

/// Every element within its own allowance.
pub fn close(name: &str, got: &[f32], want: &[f64], allowed: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = f64::from(g) == w || (f64::from(g) - w).abs() <= allowed(i).max(NOTHING);
        assert!(same, "{name}[{i}]: got {g}, wanted {w} to {}", allowed(i));
    }
}

/// All pair arguments at once, over a small matrix.
pub struct Arguments {
    x_bias: Vec<f32>,
    y_bias: Vec<f32>,
    x_ids: Vec<i64>,
    y_ids: Vec<i64>,
    indptr: Vec<i64>,
    indices: Vec<i64>,
    /// Small integers, so that no rounding decides what is above half of one.
    guide: [Vec<f32>; 2],
    bf16_guide: [Vec<Bf16>; 2],
    threshold: Vec<f32>,
}

/// Columns of the guide: an odd number, for bfloat16.
const GUIDE: usize = 5;

impl Arguments {
    pub fn new(rng: &mut Rng, m: usize, n: usize) -> Arguments {
        let ids = |rng: &mut Rng, len| (0..len).map(|_| (rng.next() * 4.0) as i64).collect();
        let (mut indptr, mut indices) = (vec![0], vec![]);
        for _ in 0..m {
            indices.extend((0..n as i64).filter(|_| rng.next() > 0.8));
            indptr.push(indices.len() as i64);
        }
        let mut guide = |rows| (0..rows * GUIDE).map(|_| (rng.next() * 2.0).trunc()).collect::<Vec<f32>>();
        let guide = [guide(m), guide(n)];
        Arguments {
            bf16_guide: guide.each_ref().map(|g| g.iter().map(|&v| Bf16::from_f32(v)).collect()),
            guide,
            threshold: vec![0.5; m],
            x_bias: rng.vector(m),
            y_bias: rng.vector(n),
            x_ids: ids(rng, m),
            y_ids: ids(rng, n),
            indptr,
            indices,
        }
    }

    /// Bits of `which`: biases, ids, exclusions, diagonal, ids are the only kept pairs, a guide in float32, one in bfloat16.
    pub fn pairs(&self, which: usize, flip: bool) -> PairArgs<'_> {
        let on = |bit: usize| which & bit > 0;
        let ids_mode = [IdsMode::Exclude, IdsMode::Only][which / 16 % 2];
        let (m, n) = (self.x_bias.len(), self.y_bias.len());
        let guide = match which / 32 {
            0 => None,
            1 => Some(GuideArgs::F32(Matrix::new(&self.guide[0], m, GUIDE), Matrix::new(&self.guide[1], n, GUIDE))),
            _ => Some(GuideArgs::Bf16(
                Matrix::new(&self.bf16_guide[0], m, GUIDE),
                Matrix::new(&self.bf16_guide[1], n, GUIDE),
            )),
        };
        PairArgs {
            x_bias: on(1).then_some(&self.x_bias[..]),
            y_bias: on(1).then_some(&self.y_bias[..]),
            x_ids: on(2).then_some(&self.x_ids[..]),
            y_ids: on(2).then_some(&self.y_ids[..]),
            ids_mode: if flip { IdsMode::Flip } else { ids_mode },
            indptr: on(4).then_some(&self.indptr[..]),
            indices: on(4).then_some(&self.indices[..]),
            diagonal: if !on(8) {
                Diagonal::Keep
            } else if flip {
                Diagonal::Flip
            } else {
                Diagonal::Skip
            },
            threshold: guide.is_some().then_some(&self.threshold[..]),
            guide,
        }
    }
}
