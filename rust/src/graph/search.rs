//! Batches of queries.

use super::Graph;
use super::filter::Passing;
use super::query::Query;
use super::walk::{LANES, Lane};
use crate::buffer::{Shared, results};
use crate::error::ArgumentError;
use crate::exact::Metric;
use crate::simd::Isa;
use crate::team;
use crate::tile::Matrix;

/// What a code's score may be off by, in deviations, where the best are told from the rest.
const DEVIATIONS: f32 = 3.0;

/// What a search returns.
pub struct Neighbours {
    /// (M, k), best first: descending, l2 ascending; padded with −∞, l2 with ∞.
    pub scores: Vec<f32>,
    /// (M, k), padded with −1.
    pub ids: Vec<i64>,
}

/// What is searched for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// How many.
    pub k: usize,
    /// Breadth of the walk; at least k is taken.
    pub ef: usize,
    /// By id: 0 where an item must not be returned. Ids beyond its end must not.
    pub filter: Option<&'a [u8]>,
    /// Compare with all items rather than walk.
    pub exact: bool,
}

/// A thread's workspace.
pub(super) struct Searcher {
    pub(super) lanes: Vec<Lane>,
    pub(super) slots: Vec<u32>,
    scores: Vec<f64>,
    best: Vec<(f64, u32)>,
}

impl Graph {
    /// The best items of each query.
    ///
    /// # Errors
    /// Queries that are not finite, or have another number of columns; more results than memory.
    pub fn search(
        &self,
        queries: Matrix<f32>,
        wanted: Wanted,
        threads: usize,
        isa: Isa,
    ) -> Result<Neighbours, ArgumentError> {
        if queries.columns != self.dim() {
            let (wanted, got) = (self.dim(), queries.columns);
            return Err(ArgumentError::Value(format!("queries: wanted {wanted} columns, got {got}")));
        }
        queries.check_finite("queries")?;
        let (m, k) = (queries.rows, wanted.k);
        let mut scores = results(m, k, f32::NEG_INFINITY)?;
        let mut ids = results(m, k, -1i64)?;
        let (to_scores, to_ids) = (Shared::of(&mut scores), Shared::of(&mut ids));
        let units = if k == 0 { 0 } else { m.div_ceil(LANES) };
        let breadth = wanted.ef.max(k).min(self.live);
        let passing = Passing::new(self, wanted.filter, breadth, wanted.exact);
        team::run(threads, |team| {
            let mut searcher = Searcher {
                lanes: (0..LANES).map(|_| Lane::new(&self.coder.layout)).collect(),
                slots: Vec::new(),
                scores: Vec::new(),
                best: Vec::new(),
            };
            team.for_each(units, |u| {
                let (i0, i1) = (u * LANES, m.min((u + 1) * LANES));
                for (lane, i) in searcher.lanes.iter_mut().zip(i0..i1) {
                    self.ask(queries.row(i), false, &mut lane.query, isa);
                }
                passing.walk(self, k, breadth, &mut searcher.lanes[..i1 - i0], isa);
                for i in i0..i1 {
                    passing.candidates(self, k, &searcher.lanes[i - i0], &mut searcher.slots);
                    self.rank(queries.row(i), k, &mut searcher, isa);
                    for (t, &(score, slot)) in searcher.best.iter().enumerate() {
                        // SAFETY: every row is written once, and holds k.
                        unsafe {
                            *to_scores.at(i * k + t) = score as f32;
                            *to_ids.at(i * k + t) = self.ids[slot as usize];
                        }
                    }
                }
            });
        });
        if self.coder.metric == Metric::SquaredL2 {
            scores.iter_mut().for_each(|s| *s = 0.0 - *s);
        }
        Ok(Neighbours { scores, ids })
    }

    /// The k best of the searcher's slots, by their exact scores.
    fn rank(&self, x: &[f32], k: usize, searcher: &mut Searcher, isa: Isa) {
        let Searcher { slots, scores, best, .. } = searcher;
        scores.clear();
        scores.resize(slots.len(), 0.0);
        let items = self.items();
        items.scores(x, items.inverse_of(x), slots, scores, isa);
        best.clear();
        best.extend(scores.iter().copied().zip(slots.iter().copied()));
        best.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        best.truncate(k);
    }

    /// What a code's score is off by at most, or nearly.
    pub(super) fn margin(&self, query: &Query) -> f32 {
        let (norm, own) = (self.coder.typical_norm, f64::from(query.unit()));
        let items = self.coder.layout.code_error() * f64::from(query.norm);
        DEVIATIONS * (norm * (items * items + own * own / 12.0).sqrt()) as f32
    }
}
