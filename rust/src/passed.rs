//! Rows on the queries' side of a first pass: their codes or floats, their part of the bound, and their exact scores.

use crate::coder::Coder;
use crate::directions::{Directions, Tails};
use crate::exact::{Items, Metric, dot_under, inverse_norm};
use crate::quant::{Row, down};
use crate::scan::{Code, Query};
use crate::select::Exact;
use crate::simd::{Isa, Kernel, Simd};
use crate::stop::{filled, room_for};
use crate::store::ExactStore;
use crate::tile::Matrix;

/// Rows that are rotated together: a multiple of every tile's rows.
const ROTATED: usize = 48;

/// The rows of a unit as the first pass takes them, and their exact scores.
pub(crate) struct Passed<'a> {
    items: Items<'a>,
    source: Matrix<'a, f32>,
    pub(crate) first: usize,
    isa: Isa,
    bytes: Vec<Code>,
    floats: Vec<f32>,
    /// x_h / s_x; along directions also ‖x_T‖ / s_x, behind the others.
    pub(crate) heavy: Vec<f32>,
    tails: Vec<i8>,
    starts: Vec<i32>,
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
        let rotation = store.directions.as_ref().map_or(0.0, Directions::error);
        let mut coder = Coder::new(d, ROTATED.min(i1 - i0), &store.heavy, store.directions.as_ref());
        for i in i0..i1 {
            let x = to.source.row(i);
            let square = dot_under::<S>(x, x);
            let norm = square.sqrt();
            let unit = if store.metric == Metric::Cosine && norm > 0.0 { norm } else { 1.0 };
            let mut row =
                Row { unit, norm, heavy: 0.0, rotation, square: (store.metric == Metric::SquaredL2).then_some(square) };
            let (query, weight) = if store.codes {
                if (i - i0).is_multiple_of(ROTATED) {
                    // SAFETY: the caller's promise.
                    unsafe { coder.rotate::<S, MR>(&to.source, (i, i1.min(i + ROTATED))) };
                }
                let (q, heavy) = coder.quantise(x, (i - i0) % ROTATED, norm);
                row.heavy = heavy;
                let (query, weight) = row.with_codes(&q, d, store.largest_offset);
                to.keep(store, &coder, q.scale, query.error < f32::INFINITY);
                (query, weight)
            } else {
                let (query, weight) = row.with_floats(d, store.largest_offset);
                let at = (i - i0) * d;
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
    /// What `coder` has of the next row, zeros where it has no bound.
    #[inline(always)]
    fn keep(&mut self, store: &ExactStore, coder: &Coder, scale: f32, bounded: bool) {
        let (leading, rest) = coder.codes.split_at(store.coded());
        self.bytes.extend(leading.iter().map(|b| Code(if bounded { b ^ 0x80 } else { 0x80 })));
        let unit = if bounded { 1.0 / f64::from(scale) } else { 0.0 };
        self.heavy.extend(coder.floats.iter().map(|x| (unit * x) as f32));
        if let Some(directions) = &store.directions {
            // A tail of zeros stays one: the scores of a zero vector are exact.
            if let Some(length) = self.heavy.last_mut().filter(|length| **length > 0.0) {
                *length = length.next_up();
            }
            let rest = || rest.iter().map(|&b| if bounded { b as i8 } else { 0 });
            self.starts.push(-128 * rest().map(i32::from).sum::<i32>());
            self.tails.extend(rest());
            self.tails.resize(self.starts.len() * directions.tail(), 0);
        }
    }

    /// Their codes, where `store` has codes.
    pub(crate) fn codes(&self, store: &ExactStore) -> Matrix<'_, Code> {
        Matrix::new(&self.bytes, self.queries.len(), store.coded())
    }

    /// Otherwise they themselves.
    pub(crate) fn floats(&self, store: &ExactStore) -> Matrix<'_, f32> {
        Matrix::new(&self.floats, self.queries.len(), store.d)
    }

    /// What a pass over leading directions leaves out of these rows and the columns from `from`.
    pub(crate) fn tails<'t>(&'t self, store: &'t ExactStore, from: usize) -> Option<Tails<'t>> {
        store.directions.as_ref().map(|directions| {
            let width = directions.tail();
            let columns = store.tails.as_ptr().cast::<u8>().wrapping_add(from * width);
            Tails { rows: &self.tails, starts: &self.starts, columns, width }
        })
    }

    /// Rows `rows.0..rows.1` of `source`, against `store`.
    pub(crate) fn new(store: &'a ExactStore, source: Matrix<'a, f32>, rows: (usize, usize), isa: Isa) -> Passed<'a> {
        fn room<T>(len: usize) -> Vec<T> {
            room_for::<T>(len);
            Vec::with_capacity(len)
        }
        let count = rows.1 - rows.0;
        let of_directions = |of: fn(&Directions) -> usize| store.directions.as_ref().map_or(0, |d| count * of(d));
        let mut passed = Passed {
            items: store.items(),
            source,
            first: rows.0,
            isa,
            bytes: room(if store.codes { count * store.coded() } else { 0 }),
            floats: filled(0.0, if store.codes { 0 } else { count * store.d }),
            heavy: room(count * store.extra()),
            tails: room(of_directions(Directions::tail)),
            starts: room(of_directions(|_| 1)),
            queries: room(count),
            facts: room(count),
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
