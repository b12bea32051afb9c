//! All vectors whose score with a query reaches a bound: what one pass cannot exclude, scored exactly.

use crate::buffer::{Buffer, Shared};
use crate::error::{ArgumentError, length};
use crate::exact::Metric;
use crate::passed::Passed;
use crate::quant::MAX_HEAVY;
use crate::scan::LeftOut;
use crate::search::{Best, Job};
use crate::select::{Exact, Selector, order};
use crate::simd::Isa;
use crate::stop::filled;
use crate::store::ExactStore;
use crate::team;
use crate::tile::Matrix;
use crate::topk::ROWS;

/// Rows of different length, one after the other.
pub struct Ragged {
    /// Where each query's entries begin, and the end of the last.
    pub indptr: Vec<i64>,
    /// Scores, best first (squared distances for [`Metric::SquaredL2`]).
    pub scores: Vec<f64>,
    /// Columns; equal scores by the smaller.
    pub ids: Vec<i64>,
}

impl ExactStore {
    /// For each query all vectors of a score of at least `bound`, or of a squared distance of at most `bound`, both as they are in f64.
    /// `filter` as in [`ExactStore::search`].
    ///
    /// # Errors
    /// A filter that does not fit; queries that are not finite; a bound that is not a number.
    ///
    /// # Panics
    /// When the queries have another number of columns.
    pub fn within(
        &self,
        queries: Matrix<f32>,
        bound: f64,
        filter: Option<&[u8]>,
        threads: usize,
        isa: Isa,
    ) -> Result<Ragged, ArgumentError> {
        assert_eq!(queries.columns, self.d);
        let (m, n) = (queries.rows, self.n);
        if let Some(filter) = filter {
            length("filter", n, filter.len())?;
        }
        queries.check_finite("queries")?;
        if bound.is_nan() {
            return Err(ArgumentError::Value("radius: wanted a number, got NaN".into()));
        }
        let squared = self.metric == Metric::SquaredL2;
        let least = if squared { -bound } else { bound };
        let left_out = LeftOut { filter, ..LeftOut::default() };
        let job = Job { store: self, queries, k: 0, left_out, few: None, isa };
        let mut rows: Vec<Best> = filled(Vec::new(), m);
        let out = Shared::of(&mut rows);
        team::run(threads, |team| {
            let mut workspace = Buffer::new((ROWS.min(m) + 16) * (self.d + MAX_HEAVY));
            team.for_each(m.div_ceil(ROWS), |u| {
                let (i0, i1) = (u * ROWS, m.min((u + 1) * ROWS));
                for (i, best) in (i0..i1).zip(job.reaching((i0, i1), least, &mut workspace)) {
                    // SAFETY: every row is written by one unit.
                    unsafe { *out.at(i) = best }
                }
            });
        });
        let mut indptr = vec![0; m + 1];
        for (i, row) in rows.iter().enumerate() {
            indptr[i + 1] = indptr[i] + row.len() as i64;
        }
        let sign = if squared { -1.0 } else { 1.0 };
        let entries = || rows.iter().flatten();
        let found = rows.iter().map(Vec::len).sum();
        let (mut scores, mut ids) = (filled(0.0, found), filled(0, found));
        for ((score, id), entry) in scores.iter_mut().zip(&mut ids).zip(entries()) {
            (*score, *id) = (sign * entry.0, i64::from(entry.1));
        }
        Ok(Ragged { indptr, scores, ids })
    }
}

impl Job<'_> {
    fn reaching(&self, rows: (usize, usize), least: f64, workspace: &mut Buffer) -> Vec<Best> {
        let passed = Passed::new(self.store, self.queries, rows, self.isa);
        let floor = |i: usize| if least.is_finite() { passed.floor(i, least) } else { least as f32 };
        let mut selectors: Vec<Selector> = (rows.0..rows.1).map(|i| Selector::reaching(floor(i))).collect();
        self.scan(&passed, (0, self.store.n), &mut selectors, workspace, &mut 0);
        let items = self.store.items();
        let of_row = |(i, selector): (usize, Selector)| {
            let ids: Vec<u32> = selector.into_candidates().iter().map(|c| c.id).collect();
            let mut scores = vec![0.0; ids.len()];
            let query = self.queries.row(i);
            items.scores(query, items.inverse_of(query), &ids, &mut scores, self.isa);
            let mut best: Best = scores.into_iter().zip(ids).filter(|(score, _)| *score >= least).collect();
            best.sort_unstable_by(order);
            best
        };
        (rows.0..).zip(selectors).map(of_row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FirstPass;

    #[test]
    fn a_range_holds_what_a_sorted_list_of_all_scores_holds() {
        let (m, n, d) = (5, 600, 21);
        let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
        let (x, mut y) = (wave(m * d, 0.7), wave(n * d, 1.3));
        y.copy_within(0..d, 17 * d); // a tie
        y[40 * d..41 * d].fill(0.0);
        let filter: Vec<u8> = (0..n).map(|j| u8::from(j % 7 != 0)).collect();
        for metric in [Metric::InnerProduct, Metric::Cosine, Metric::SquaredL2] {
            for pass in 0..3 {
                for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                    let (x, y) = (Matrix::new(&x, m, d), Matrix::new(&y, n, d));
                    let store =
                        ExactStore::new(y, metric, None, None, FirstPass::number(pass, d, isa), 1, isa).unwrap();
                    let all = store.search(x, n, Some(&filter), None, 1, isa).unwrap();
                    for bound in [all.scores[60], 0.0, -1e300, 1e300, f64::INFINITY, f64::NEG_INFINITY] {
                        let found = store.within(x, bound, Some(&filter), 2, isa).unwrap();
                        for i in 0..m {
                            let (a, b) = (found.indptr[i] as usize, found.indptr[i + 1] as usize);
                            let row = i * n..i * n + (b - a);
                            assert_eq!(found.ids[a..b], all.ids[row.clone()], "{metric:?} {bound}");
                            assert_eq!(found.scores[a..b], all.scores[row]);
                            let squared = metric == Metric::SquaredL2;
                            let in_range = |s: f64| if squared { s <= bound } else { s >= bound };
                            let next = i * n + (b - a);
                            assert!(b - a == n || all.ids[next] < 0 || !in_range(all.scores[next]));
                        }
                    }
                }
            }
        }
    }
}
