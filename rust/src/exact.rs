//! Scores in f64 from f32 vectors: what every first pass is measured against, the same bits on every processor.
//!
//! Products of two f32 are exact in f64 and are added in [`LANES`] chains whose order is fixed, so that it makes no difference whether
//! an instruction set fuses multiplication and addition.

use crate::simd::{Isa, Kernel, Simd, prefetch};

const LANES: usize = 16;
/// Vectors that are fetched ahead.
const AHEAD: usize = 2;

/// What a score is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `a_j <x, y_j> + b_j`
    InnerProduct,
    /// `a_j <x, y_j> / (‖x‖ ‖y_j‖) + b_j`; the cosine with a zero vector is 0.
    Cosine,
    /// −‖x − y_j‖²
    SquaredL2,
}

#[inline(always)]
fn reduce(x: &[f32], y: &[f32], f: impl Fn(f64, f64, f64) -> f64) -> f64 {
    let mut sums = [0f64; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for l in 0..LANES {
            sums[l] = f(f64::from(x[l]), f64::from(y[l]), sums[l]);
        }
    }
    for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
        *sum = f(f64::from(*x), f64::from(*y), *sum);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

/// <x, y>. Compiled with the features of its caller, as below.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
    reduce(x, y, |a, b, sum| sum + a * b)
}

/// <x, y>, the same number, with fused products where `S` has them.
#[inline(always)]
pub fn dot_under<S: Simd>(x: &[f32], y: &[f32]) -> f64 {
    if S::FUSES { reduce(x, y, f64::mul_add) } else { dot(x, y) }
}

/// ‖x − y‖²
#[inline(always)]
pub fn squared_l2(x: &[f32], y: &[f32]) -> f64 {
    reduce(x, y, |a, b, sum| sum + (a - b) * (a - b))
}

/// 1 / √square, 0 for 0.
pub fn inverse_norm(square: f64) -> f64 {
    if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 }
}

/// Vectors that are searched, with what their scores need.
#[derive(Clone, Copy)]
pub struct Items<'a> {
    /// The metric.
    pub metric: Metric,
    /// Row-major.
    pub vectors: &'a [f32],
    /// Columns.
    pub d: usize,
    /// a
    pub scale: Option<&'a [f32]>,
    /// b
    pub bias: Option<&'a [f32]>,
    /// 1 / ‖y_j‖ for cosines, otherwise empty.
    pub inverse: &'a [f64],
}

impl<'a> Items<'a> {
    /// Vector j.
    #[inline(always)]
    pub fn vector(&self, j: usize) -> &'a [f32] {
        &self.vectors[j * self.d..][..self.d]
    }

    /// 1 / ‖query‖ for cosines, otherwise 1.
    pub fn inverse_of(&self, query: &[f32]) -> f64 {
        if self.metric == Metric::Cosine { inverse_norm(dot(query, query)) } else { 1.0 }
    }

    /// Scores of `query` (`inverse`: its [`Items::inverse_of`]) and items `ids`.
    pub fn scores(&self, query: &[f32], inverse: f64, ids: &[u32], out: &mut [f64], isa: Isa) {
        isa.run(Scores { items: self, query, inverse, ids, out });
    }
}

struct Scores<'a> {
    items: &'a Items<'a>,
    query: &'a [f32],
    inverse: f64,
    ids: &'a [u32],
    out: &'a mut [f64],
}

impl Kernel for Scores<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let Items { metric, scale, bias, inverse, .. } = *self.items;
        for &id in self.ids.iter().take(AHEAD) {
            prefetch(self.items.vector(id as usize).as_ptr(), 4 * self.items.d);
        }
        for (t, (out, &id)) in self.out.iter_mut().zip(self.ids).enumerate() {
            let j = id as usize;
            let y = self.items.vector(j);
            // Candidates lie anywhere: the ones after the next are fetched from memory while this one is summed.
            if let Some(&next) = self.ids.get(t + AHEAD) {
                prefetch(self.items.vector(next as usize).as_ptr(), 4 * self.items.d);
            }
            let s = match metric {
                Metric::SquaredL2 => {
                    *out = -squared_l2(self.query, y) + 0.0;
                    continue;
                }
                Metric::InnerProduct => dot_under::<S>(self.query, y),
                Metric::Cosine => dot_under::<S>(self.query, y) * self.inverse * inverse[j],
            };
            let s = scale.map_or(s, |a| f64::from(a[j]) * s);
            // Adding 0 leaves one zero: the order of scores tells −0 from 0.
            *out = bias.map_or(s, |b| s + f64::from(b[j])) + 0.0;
        }
    }
}
