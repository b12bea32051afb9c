//! Exact search in a prepared set of vectors: the k best by the f64 score, equal scores by the smaller id.
//!
//! A first pass in f32, or over 8-bit codes, leaves the columns that its proved error ([`crate::quant`]) cannot exclude; these are
//! scored by [`crate::exact`]. Which pass is taken, the blocks, threads and instruction set make no difference to the result.

use crate::buffer::{Buffer, Shared, results};
use crate::error::{ArgumentError, length};
use crate::exact::Metric;
use crate::pairs::check_csr;
use crate::passed::Passed;
use crate::quant::MAX_HEAVY;
use crate::scan::{LeftOut, Product, Scan};
use crate::select::{Selector, insert, order};
use crate::simd::Isa;
use crate::stop::filled;
use crate::store::ExactStore;
use crate::team;
use crate::tile::Matrix;
use crate::topk::{ROWS, column_parts, part};

/// Once so few of the columns pass a filter, a pass over all of them costs more than their exact scores.
const FEW: usize = 64;
/// Units of rows are multiples of every tile's rows.
const ROW_STEP: usize = 48;

/// Results of a search; see [`crate::topk::TopK`].
pub struct Found {
    /// Scores (squared distances, ascending, for [`Metric::SquaredL2`]).
    pub scores: Vec<f64>,
    /// Columns.
    pub ids: Vec<i64>,
    /// Exact scores that were computed.
    pub computed: usize,
}

impl ExactStore {
    /// The k best of each query. `filter` holds a byte a row, 0 for those to leave out; `csr` lists rows to leave out per query, sorted.
    ///
    /// # Errors
    /// A filter or lists that do not fit; queries that are not finite; more results than memory.
    ///
    /// # Panics
    /// When the queries have another number of columns.
    pub fn search(
        &self,
        queries: Matrix<f32>,
        k: usize,
        filter: Option<&[u8]>,
        csr: Option<(&[i64], &[i64])>,
        threads: usize,
        isa: Isa,
    ) -> Result<Found, ArgumentError> {
        assert_eq!(queries.columns, self.d);
        let (m, n) = (queries.rows, self.n);
        if let Some(filter) = filter {
            length("filter", n, filter.len())?;
        }
        if let Some((indptr, indices)) = csr {
            check_csr(indptr, indices, m, n)?;
        }
        queries.check_finite("queries")?;
        let mut scores = results(m, k, f64::NEG_INFINITY)?;
        let mut ids = results(m, k, -1i64)?;
        let mut computed = 0;
        if m > 0 && n > 0 && k > 0 {
            let left_out = LeftOut { filter, csr, diagonal: false };
            let few: Option<Vec<u32>> = filter
                .filter(|f| f.iter().filter(|&&b| b != 0).count() <= n / FEW)
                .map(|f| (0..n as u32).filter(|&j| f[j as usize] != 0).collect());
            let job = Job { store: self, queries, k: k.min(n), left_out, few, isa };
            computed = job.run(threads, k, Shared::of(&mut scores), Shared::of(&mut ids));
        }
        if self.metric == Metric::SquaredL2 {
            scores.iter_mut().for_each(|s| *s = 0.0 - *s);
        }
        Ok(Found { scores, ids, computed })
    }
}

impl ExactStore {
    /// The k best of each of its own vectors, itself left out.
    pub(crate) fn search_own(
        &self,
        k: usize,
        (stride, scores, ids): (usize, Shared<f64>, Shared<i64>),
        threads: usize,
        isa: Isa,
    ) -> usize {
        let left_out = LeftOut { diagonal: true, ..LeftOut::default() };
        let job = Job { store: self, queries: self.vectors(), k, left_out, few: None, isa };
        job.run(threads, stride, scores, ids)
    }
}

/// A search.
pub(crate) struct Job<'a> {
    pub(crate) store: &'a ExactStore,
    pub(crate) queries: Matrix<'a, f32>,
    pub(crate) k: usize,
    pub(crate) left_out: LeftOut<'a>,
    pub(crate) few: Option<Vec<u32>>,
    pub(crate) isa: Isa,
}

pub(crate) type Best = Vec<(f64, u32)>;

impl Job<'_> {
    fn run(&self, threads: usize, stride: usize, scores: Shared<f64>, ids: Shared<i64>) -> usize {
        let (m, n) = (self.queries.rows, self.store.n);
        // Results do not depend on how rows are shared out, so that this may: two units a thread, as large as pays.
        let each = if threads == 1 { ROWS } else { m.div_ceil(2 * threads).next_multiple_of(ROW_STEP).min(ROWS) };
        let row_units = m.div_ceil(each);
        let parts = if self.few.is_some() { 1 } else { column_parts(row_units, n, threads) };
        let mut lists: Vec<Best> = filled(Vec::new(), if parts > 1 { parts * m } else { 0 });
        let lists = Shared::of(&mut lists);
        let total = std::sync::atomic::AtomicUsize::new(0);
        let write = |i: usize, best: &[(f64, u32)]| {
            for (t, (score, id)) in best.iter().enumerate() {
                // SAFETY: every row is written by one unit.
                unsafe {
                    *scores.at(i * stride + t) = *score;
                    *ids.at(i * stride + t) = i64::from(*id);
                }
            }
        };
        team::run(threads, |team| {
            let mut workspace = Buffer::new((each.min(m) + 16) * (self.store.d + MAX_HEAVY));
            let mut computed = 0;
            team.for_each(row_units * parts, |u| {
                let (p, i0) = (u / row_units, u % row_units * each);
                let i1 = m.min(i0 + each);
                let (j0, j1) = part(0, n, p, parts);
                let best = match &self.few {
                    Some(few) => self.few_rows((i0, i1), few, &mut computed),
                    None => self.unit((i0, i1), (j0, j1), &mut workspace, &mut computed),
                };
                for (r, best) in best.into_iter().enumerate() {
                    if parts == 1 {
                        write(i0 + r, &best);
                    } else {
                        // SAFETY: as above, for each part.
                        unsafe { *lists.at(p * m + i0 + r) = best }
                    }
                }
            });
            team.for_each(if parts > 1 { m } else { 0 }, |i| {
                // SAFETY: all lists are complete, each row is read by one unit.
                let mut best: Best = (0..parts).flat_map(|p| unsafe { &*lists.at(p * m + i) }).copied().collect();
                best.sort_by(order);
                best.truncate(self.k);
                write(i, &best);
            });
            total.fetch_add(computed, std::sync::atomic::Ordering::Relaxed);
        });
        total.into_inner()
    }

    /// Exact scores of all columns that pass the filter.
    fn few_rows(&self, (i0, i1): (usize, usize), few: &[u32], computed: &mut usize) -> Vec<Best> {
        let items = self.store.items();
        let mut scores = vec![0.0; few.len()];
        let of_row = |i: usize| {
            let query = self.queries.row(i);
            items.scores(query, items.inverse_of(query), few, &mut scores, self.isa);
            *computed += few.len();
            let mut best = Vec::with_capacity(self.k);
            for (&score, &id) in scores.iter().zip(few) {
                if self.left_out.keeps(i, id as usize) {
                    insert(&mut best, self.k, (score, id));
                }
            }
            best
        };
        (i0..i1).map(of_row).collect()
    }

    /// The best among columns `columns.0..columns.1`.
    fn unit(
        &self,
        rows: (usize, usize),
        columns: (usize, usize),
        workspace: &mut Buffer,
        computed: &mut usize,
    ) -> Vec<Best> {
        let passed = Passed::new(self.store, self.queries, rows, self.isa);
        let mut selectors: Vec<Selector> = (rows.0..rows.1).map(|_| Selector::new(self.k)).collect();
        self.scan(&passed, columns, &mut selectors, workspace, computed);
        let resolved = |(r, mut selector): (usize, Selector)| {
            *computed += selector.resolve(rows.0 + r, &passed);
            selector.into_best()
        };
        selectors.into_iter().enumerate().map(resolved).collect()
    }

    pub(crate) fn scan(
        &self,
        passed: &Passed,
        (j0, j1): (usize, usize),
        selectors: &mut [Selector],
        workspace: &mut Buffer,
        computed: &mut usize,
    ) {
        if self.store.codes {
            let x = passed.codes(self.store);
            self.isa.run(self.pass(x, passed, (j0, j1), selectors, workspace, computed));
        } else {
            let x = passed.floats(self.store);
            self.isa.run(self.pass(x, passed, (j0, j1), selectors, workspace, computed));
        }
    }

    fn pass<'a, E: Product>(
        &'a self,
        x: Matrix<'a, E>,
        passed: &'a Passed<'_>,
        (j0, j1): (usize, usize),
        selectors: &'a mut [Selector],
        workspace: &'a mut Buffer,
        computed: &'a mut usize,
    ) -> Scan<'a, E> {
        Scan {
            x,
            heavy: Matrix::new(&passed.heavy, x.rows, self.store.extra()),
            tails: passed.tails(self.store, j0),
            first: passed.first,
            queries: &passed.queries,
            selectors,
            columns: self.store.packed(j0, j1),
            left_out: self.left_out,
            exact: Some(passed),
            workspace,
            computed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::{Candidate, Exact};
    use crate::store::FirstPass;
    use proptest::prelude::*;

    /// Bounds and exact scores, in the unit of the bounds, of every pair.
    fn pairs(store: &ExactStore, queries: Matrix<f32>, isa: Isa) -> Vec<(Candidate, f64)> {
        let (m, n) = (queries.rows, store.n);
        let job = Job { store, queries, k: n, left_out: LeftOut::default(), few: None, isa };
        let passed = Passed::new(store, queries, (0, m), isa);
        let mut selectors: Vec<Selector> = (0..m).map(|_| Selector::new(n)).collect();
        let mut workspace = Buffer::new((m + 16) * (store.d + MAX_HEAVY));
        job.scan(&passed, (0, n), &mut selectors, &mut workspace, &mut 0);
        let mut all = Vec::new();
        for (i, selector) in selectors.into_iter().enumerate() {
            let candidates = selector.into_sorted();
            assert_eq!(candidates.len(), n);
            for c in candidates {
                let mut score = [0.0];
                passed.scores(i, &[c.id], &mut score);
                let [_, square, weight] = passed.facts[i];
                let exact = match store.metric {
                    Metric::SquaredL2 => weight * 0.5 * (square + score[0]),
                    _ => weight * score[0],
                };
                all.push((c, exact));
            }
        }
        all
    }

    /// Rows at the edge of what the bound has to cover: each element and each row has its own power of two.
    fn rows(n: usize, d: usize) -> impl Strategy<Value = Vec<f32>> {
        let row =
            (proptest::collection::vec((-1f32..1.0, prop_oneof![4 => Just(0i32), 1 => -20i32..20]), d), -90i32..60);
        let row = prop_oneof![4 => row.clone().prop_map(|(r, _)| (r, 0)), 1 => row];
        let scaled = |rows: Vec<(Vec<(f32, i32)>, i32)>| {
            let value = |(m, e): &(f32, i32), level: i32| (f64::from(*m) * f64::from(e + level).exp2()) as f32;
            rows.iter().flat_map(|(r, level)| r.iter().map(|x| value(x, *level)).collect::<Vec<_>>()).collect()
        };
        proptest::collection::vec(row, n).prop_map(scaled)
    }

    proptest! {
        #[test]
        fn the_exact_score_lies_between_its_bounds(
            (d, x, y) in (1usize..80).prop_flat_map(|d| (Just(d), rows(7, d), rows(40, d))),
            metric in prop_oneof![Just(Metric::InnerProduct), Just(Metric::Cosine), Just(Metric::SquaredL2)],
            pass in 0usize..3,
            affine in proptest::collection::vec(-3f32..3.0, 40),
        ) {
            let (x, y) = (Matrix::new(&x, 7, d), Matrix::new(&y, 40, d));
            let affine = (metric != Metric::SquaredL2).then_some(&affine[..]);
            for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                let store = ExactStore::new(y, metric, affine, affine, FirstPass::number(pass, d, isa), 1, isa).unwrap();
                for (c, exact) in pairs(&store, x, isa) {
                    prop_assert!(
                        f64::from(c.lower) <= exact && exact <= f64::from(c.upper), "{isa:?} {c:?} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_bound_that_is_too_small_is_caught() {
        // 0.4 of a step is lost of seven elements in eight, and the query points exactly there: the error is what Cauchy–Schwarz allows.
        let (n, d) = (64, 64);
        let light = |i: usize| !i.is_multiple_of(8);
        let y: Vec<f32> = (0..n * d).map(|i| if light(i) { 2.4 / 127.0 } else { 1.0 }).collect();
        let x: Vec<f32> = (0..d).map(|i| if light(i) { 1.0 } else { 0.0 }).collect();
        let (x, y) = (Matrix::new(&x, 1, d), Matrix::new(&y, n, d));
        let mut store = ExactStore::new(y, Metric::InnerProduct, None, None, FirstPass::Codes, 1, Isa::best()).unwrap();
        let outside = |store: &ExactStore| {
            let holds = |(c, exact): &(Candidate, f64)| f64::from(c.lower) <= *exact && *exact <= f64::from(c.upper);
            !pairs(store, x, Isa::best()).iter().all(holds)
        };
        assert!(!outside(&store));
        store.bounds.iter_mut().flatten().for_each(|term| *term *= 0.8);
        assert!(outside(&store));
    }
}
