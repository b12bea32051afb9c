//! Rows on the queries' side of a first pass: their codes or floats, their part of the bound, and their exact scores.

use crate::exact::{Items, Metric, dot_under, inverse_norm};
use crate::quant::{Row, down, quantise};
use crate::scan::Query;
use crate::select::Exact;
use crate::simd::{Isa, Kernel, Simd};
use crate::stop::filled;
use crate::store::{ExactStore, split};
use crate::tile::Matrix;

/// The rows of a unit as the first pass takes them, and their exact scores.
pub(crate) struct Passed<'a> {
    items: Items<'a>,
    source: Matrix<'a, f32>,
    pub(crate) first: usize,
    isa: Isa,
    pub(crate) bytes: Vec<u8>,
    pub(crate) floats: Vec<f32>,
    /// x_h / s_x
    pub(crate) heavy: Vec<f32>,
    pub(crate) queries: Vec<Query>,
    /// 1 / norm, squared norm and w of each row.
    pub(crate) facts: Vec<[f64; 3]>,
}

struct Pass<'a, 'b> {
    store: &'a ExactStore,
    rows: (usize, usize),
    to: &'a mut Passed<'b>,
}

impl Kernel for Pass<'_, '_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let (store, (i0, i1), to) = (self.store, self.rows, self.to);
        let d = store.d;
        let mut light = vec![0f32; d];
        for i in i0..i1 {
            let x = to.source.row(i);
            let square = dot_under::<S>(x, x);
            let norm = square.sqrt();
            let unit = if store.metric == Metric::Cosine && norm > 0.0 { norm } else { 1.0 };
            let mut row = Row { unit, norm, heavy: 0.0, square: (store.metric == Metric::SquaredL2).then_some(square) };
            let at = (i - i0) * d;
            let (query, weight) = if store.codes {
                let bytes = &mut to.bytes[at..at + d];
                row.heavy = split(x, &store.heavy, &mut light);
                let q = quantise(&light, bytes);
                let (query, weight) = row.with_codes(&q, d, store.largest_offset);
                let keep = query.error < f32::INFINITY;
                bytes.iter_mut().for_each(|b| *b = if keep { *b ^ 0x80 } else { 0x80 });
                let unit = if keep { 1.0 / f64::from(q.scale) } else { 0.0 };
                to.heavy.extend(store.heavy.iter().map(|&h| (unit * f64::from(x[h])) as f32));
                (query, weight)
            } else {
                let (query, weight) = row.with_floats(d, store.largest_offset);
                if query.error < f32::INFINITY {
                    to.floats[at..at + d].copy_from_slice(x);
                }
                (query, weight)
            };
            to.queries.push(query);
            to.facts.push([inverse_norm(square), square, weight]);
        }
    }
}

impl<'a> Passed<'a> {
    /// Rows `rows.0..rows.1` of `source`, against `store`.
    pub(crate) fn new(store: &'a ExactStore, source: Matrix<'a, f32>, rows: (usize, usize), isa: Isa) -> Passed<'a> {
        let count = rows.1 - rows.0;
        let len = count * store.d;
        let mut passed = Passed {
            items: store.items(),
            source,
            first: rows.0,
            isa,
            bytes: filled(0, if store.codes { len } else { 0 }),
            floats: filled(0.0, if store.codes { 0 } else { len }),
            heavy: Vec::with_capacity(count * store.heavy.len()),
            queries: Vec::with_capacity(count),
            facts: Vec::with_capacity(count),
        };
        isa.run(Pass { store, rows, to: &mut passed });
        passed
    }
}

impl Exact for Passed<'_> {
    fn scores(&self, row: usize, ids: &[u32], out: &mut [f64]) {
        let [inverse, ..] = self.facts[row - self.first];
        self.items.scores(self.source.row(row), inverse, ids, out, self.isa);
    }

    fn floor(&self, row: usize, score: f64) -> f32 {
        let [_, square, weight] = self.facts[row - self.first];
        match self.items.metric {
            Metric::SquaredL2 => {
                let slack = (square - score) / (1u64 << 34) as f64;
                down(weight * ((square + score) * 0.5 - slack))
            }
            _ => down(weight * score),
        }
    }
}
