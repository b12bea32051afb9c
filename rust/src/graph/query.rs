//! Vectors as they ask.

use super::codes::{Coder, ESTIMATE, LIFT, Layout, OFFSET, UNIT, inverse_of, unit_of};
use crate::exact::{Metric, dot_under};
use crate::simd::Simd;
use crate::simd::signs::Weights;

/// Standard deviations of the weights of signs, from −[`HALF`] to one less.
const CLIP: f64 = 2.5;
const HALF: f32 = 4.0;
/// Deviation of an estimate in units of e ‖w‖, times what the walk asks for.
const SLACK: f64 = 0.6 * 1.4;

/// A query as the walk needs it.
pub(super) struct Query {
    layout: Layout,
    /// v, zero beyond d (as many as a code record has room for)
    codes: Vec<i8>,
    /// w in a few steps.
    small: Vec<i8>,
    weights: Weights,
    /// g
    unit: f32,
    /// −l Σ v
    shift: i32,
    /// A step of the small w.
    step: f32,
    /// Σ of the small w.
    total: i32,
    /// What estimates are raised by, in units of e.
    slack: f32,
    /// β
    offset_factor: f32,
    /// γ
    lift_factor: f32,
    /// ‖w‖
    pub(super) norm: f32,
    pub(super) vector: Vec<f32>,
}

impl Query {
    pub(super) fn new(layout: &Layout) -> Query {
        Query {
            layout: *layout,
            codes: vec![0; layout.room()],
            small: vec![0; if layout.sign_bytes > 0 { layout.d } else { 0 }],
            weights: Weights::new(if layout.sign_bytes > 0 { layout.d.div_ceil(64) } else { 0 }, layout.sign_bytes),
            unit: 0.0,
            shift: 0,
            step: 0.0,
            total: 0,
            slack: 0.0,
            offset_factor: 0.0,
            lift_factor: 0.0,
            norm: 0.0,
            vector: vec![0.0; layout.d],
        }
    }

    /// g
    pub(super) fn unit(&self) -> f32 {
        self.unit
    }

    /// What [`Query::scores`] wants of items' code records.
    ///
    /// # Safety
    /// `S` is there; `codes` point to code records of this query's layout.
    #[inline(always)]
    pub(super) unsafe fn products<S: Simd, const N: usize>(&self, codes: [*const u8; N]) -> [i32; N] {
        // SAFETY: the caller's promise.
        unsafe { self.layout.products::<S, N>(codes, [self.codes.as_ptr(); N], [self.shift; N]) }
    }

    /// The scores of items from their products and their scalars.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    pub(super) unsafe fn scores<S: Simd>(&self, products: S::V, items: [S::V; 4]) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let unit = S::mul(S::splat(self.unit), items[UNIT]);
            S::add(S::mul(S::i32_to_f32(products), unit), self.raised::<S>(items))
        }
    }

    /// What [`Query::ceilings`] wants of each of these sign records: what their ones weigh more than their zeros.
    ///
    /// # Safety
    /// `S` is there, and was when the query was made; `signs` points to the records of `which`, of this query's layout.
    #[inline(always)]
    pub(super) unsafe fn weigh<S: Simd>(&self, signs: *const u8, which: &[u32], weights: &mut [i32]) {
        // SAFETY: the caller's promise.
        unsafe { self.weights.sums::<S>(signs, which, weights) };
        weights[..which.len()].iter_mut().for_each(|w| *w = 2 * *w - self.total);
    }

    /// The largest scores that items have, as far as their signs tell.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    pub(super) unsafe fn ceilings<S: Simd>(&self, weights: S::V, items: [S::V; 4]) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let estimate = S::mul(S::i32_to_f32(weights), S::splat(self.step));
            S::add(S::mul(items[ESTIMATE], S::add(estimate, S::splat(self.slack))), self.raised::<S>(items))
        }
    }

    /// β o + γ a
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    unsafe fn raised<S: Simd>(&self, items: [S::V; 4]) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            S::add(S::mul(S::splat(self.offset_factor), items[OFFSET]), S::mul(S::splat(self.lift_factor), items[LIFT]))
        }
    }
}

impl Coder {
    /// `x` as it asks; `item`: it is one, and asks for what is near it.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    pub(super) unsafe fn ask<S: Simd>(&self, x: &[f32], item: bool, query: &mut Query) {
        let d = self.layout.d;
        let square = dot_under::<S>(x, x);
        let l2 = self.metric == Metric::SquaredL2;
        // A query's own length makes no difference but for distances; an item's meets its a.
        let unit = match self.metric {
            Metric::InnerProduct if !item => crate::exact::inverse_norm(square),
            metric => unit_of(metric, self.scale, square),
        };
        let beta = match self.center_square {
            _ if l2 => 1.0,
            0.0 => 0.0,
            square => dot_under::<S>(x, &self.center) * unit / square,
        };
        let of = |x: &f32, c: &f32| f64::from(*x) * unit - beta * f64::from(*c);
        let largest = x.iter().zip(&self.center).fold(0f64, |m, (x, c)| m.max(of(x, c).abs()));
        let shrink = if largest > 1.0 { 1.0 / largest } else { 1.0 };
        let w = &mut query.vector;
        for ((w, x), c) in w.iter_mut().zip(x).zip(&self.center) {
            *w = (of(x, c) * shrink) as f32;
        }
        let norm = dot_under::<S>(w, w).sqrt();
        self.rotation.apply(w);
        let largest = w.iter().fold(0f32, |m, w| m.max(w.abs()));
        let step = largest / 127.0;
        let inverse = inverse_of(step);
        for (v, w) in query.codes.iter_mut().zip(w.iter()) {
            *v = nearest(w * inverse);
        }
        query.unit = if inverse > 0.0 { step } else { 0.0 };
        query.shift = self.layout.shift(&query.codes);
        query.norm = norm as f32;
        query.offset_factor = (beta * shrink) as f32;
        query.lift_factor = if item { self.lift(square) * shrink as f32 } else { 0.0 };
        if self.layout.sign_bytes > 0 {
            let step = (CLIP * norm / (d as f64).sqrt()) as f32 / HALF;
            let inverse = inverse_of(step);
            for (small, w) in query.small.iter_mut().zip(&query.vector) {
                *small = nearest((w * inverse).clamp(-HALF, HALF - 1.0));
            }
            // SAFETY: the caller's promise.
            unsafe { query.weights.set::<S>(&query.small) };
            (query.step, query.total) = (step, query.small.iter().map(|&w| i32::from(w)).sum());
            query.slack = (SLACK * norm) as f32;
        }
    }
}

/// The nearest integer, ties to even, of what is below 128 in size: that is what the last bits of a sum with 1.5 · 2^23 are.
#[inline(always)]
fn nearest(x: f32) -> i8 {
    (x + 12_582_912.0).to_bits() as i8
}
