//! The k nearest neighbours of every vector among all others: one product for each pair, read from both of its sides.
//!
//! Row i's unit of scores ([`crate::quant`]) turns `v_ij` into `v_ji = w_j (v_ij / w_i + (‖x_j‖² − ‖x_i‖²) / 2)`, where the squares belong to
//! squared distances only; the error of `v_ij` is a bound in either unit. So a tile is compared with the thresholds of its rows and, by
//! one more multiplication and addition, with those of its columns.
//!
//! Vectors are cut into sides of a few thousand. A round of the tournament pairs each side with one other, so that no two threads
//! meet at a vector; candidates come in another order than in [`crate::search`], their result is the same.

mod board;

use crate::buffer::{Buffer, Shared, results};
use crate::directions::Tails;
use crate::error::ArgumentError;
use crate::exact::Metric;
use crate::hits::{Hit, Hits, MOST_ROWS, Masks};
use crate::passed::Passed;
use crate::quant::MAX_HEAVY;
use crate::scan::{BLOCK, Columns, PANEL, Product, values};
use crate::search::Found;
use crate::select::{Candidate, Selector};
use crate::simd::{Isa, Kernel, NV, Simd};
use crate::stop::{filled, room_for};
use crate::store::ExactStore;
use crate::team;
use crate::tile::{Matrix, pack_panels};
use board::{Board, Limits, Unit};

/// Vectors of a side: their thresholds and candidates stay in the L2 cache, and packing them is little beside their products.
const SIDE: usize = 4096;
/// Bytes of packed columns that rows pass over while they stay in the L2 cache.
const RESIDENT: usize = 400 << 10;

impl ExactStore {
    /// For each vector the `k` best of all others, equal scores by the smaller id. Item scales and biases make scores one-sided:
    /// those stores are searched for their own vectors.
    ///
    /// # Errors
    /// More results than memory.
    pub fn neighbours(&self, k: usize, threads: usize, isa: Isa) -> Result<Found, ArgumentError> {
        let n = self.n;
        let mut scores = results(n, k, f64::NEG_INFINITY)?;
        let mut ids = results(n, k, -1i64)?;
        let most = k.min(n.saturating_sub(1));
        let mut computed = 0;
        if most > 0 {
            let out = (k, Shared::of(&mut scores), Shared::of(&mut ids));
            computed = if self.one_sided() {
                self.search_own(most, out, threads, isa)
            } else {
                tournament(self, most, out, threads, isa)
            };
        }
        if self.metric == Metric::SquaredL2 {
            scores.iter_mut().for_each(|s| *s = 0.0 - *s);
        }
        Ok(Found { scores, ids, computed })
    }
}

fn tournament(
    store: &ExactStore,
    k: usize,
    (stride, scores, ids): (usize, Shared<f64>, Shared<i64>),
    threads: usize,
    isa: Isa,
) -> usize {
    let n = store.n;
    let side = n.div_ceil(4 * threads).next_multiple_of(BLOCK).min(SIDE);
    let sides = n.div_ceil(side);
    let range = |s: usize| (s * side, n.min((s + 1) * side));
    room_for::<Selector>(n);
    let mut selectors: Vec<Selector> = (0..n).map(|_| Selector::new(k)).collect();
    let mut reach = filled(f32::NEG_INFINITY, n + PANEL);
    reach.truncate(n);
    reach.resize(n + PANEL, f32::INFINITY);
    let mut passed: Vec<Option<Passed>> = (0..sides).map(|_| None).collect();
    let passing = Shared::of(&mut passed);
    team::run(threads, |team| {
        team.for_each(sides, |s| {
            // SAFETY: every side is written by one unit.
            unsafe { *passing.at(s) = Some(Passed::new(store, store.vectors(), range(s), isa)) }
        });
    });
    let passed: Vec<Passed> = passed.into_iter().flatten().collect();
    let units: Vec<Unit> = passed.iter().flat_map(|p| Unit::of(p, store.metric == Metric::SquaredL2)).collect();
    let board = Board {
        side,
        passed: &passed,
        units: &units,
        selectors: Shared::of(&mut selectors),
        reach: Shared::of(&mut reach),
    };
    let total = std::sync::atomic::AtomicUsize::new(0);
    team::run(threads, |team| {
        let mut workspace = Buffer::new((side.min(n) + 16) * (store.d + MAX_HEAVY));
        let mut computed = 0;
        let mut meet = |a: usize, b: usize| {
            // SAFETY: in one round no other unit has either of these sides.
            computed += unsafe { board.meet(store, &passed[a], range(a), range(b), &mut workspace, isa) };
        };
        team.for_each(sides, |s| meet(s, s));
        // The circle method: all pairs in `seats - 1` rounds, an empty seat where the number of sides is odd.
        let seats = sides.next_multiple_of(2);
        for round in 0..seats.saturating_sub(1) {
            team.for_each(seats / 2, |t| {
                let others = seats - 1;
                let (a, b) =
                    if t == 0 { (round, others) } else { ((round + t) % others, (round + others - t) % others) };
                if a.max(b) < sides {
                    meet(a.min(b), a.max(b));
                }
            });
        }
        team.for_each(n.div_ceil(BLOCK), |u| {
            for i in u * BLOCK..n.min((u + 1) * BLOCK) {
                // SAFETY: all candidates are in; every row is taken by one unit.
                unsafe {
                    let selector = &mut *board.selectors.at(i);
                    computed += selector.resolve(i, board.of(i));
                    let best = std::mem::replace(selector, Selector::new(0)).into_best();
                    for (t, (score, id)) in best.iter().enumerate() {
                        *scores.at(i * stride + t) = *score;
                        *ids.at(i * stride + t) = i64::from(*id);
                    }
                }
            }
        });
        total.fetch_add(computed, std::sync::atomic::Ordering::Relaxed);
    });
    total.into_inner()
}

impl Board<'_> {
    /// All pairs of two sides, or of one with itself. Returns how many exact scores were computed.
    ///
    /// # Safety
    /// No other thread has a vector of either side.
    unsafe fn meet(
        &self,
        store: &ExactStore,
        rows: &Passed,
        (i0, i1): (usize, usize),
        (j0, j1): (usize, usize),
        workspace: &mut Buffer,
        isa: Isa,
    ) -> usize {
        let (m, columns) = (i1 - i0, store.packed(j0, j1));
        let heavy = Matrix::new(&rows.heavy, m, store.extra());
        let tails = rows.tails(store, j0);
        if store.codes {
            let x = rows.codes(store);
            isa.run(Meeting { board: self, rows, x, heavy, tails, columns, workspace })
        } else {
            let x = rows.floats(store);
            isa.run(Meeting { board: self, rows, x, heavy, tails, columns, workspace })
        }
    }
}

/// The products of two sides.
struct Meeting<'a, E> {
    board: &'a Board<'a>,
    rows: &'a Passed<'a>,
    x: Matrix<'a, E>,
    heavy: Matrix<'a, f32>,
    tails: Option<Tails<'a>>,
    columns: Columns<'a>,
    workspace: &'a mut Buffer,
}

impl<E: Product> Kernel for Meeting<'_, E> {
    type Out = usize;
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> usize {
        let (board, k, m, first) = (self.board, self.x.words(), self.x.rows, self.rows.first);
        let Columns { from, to, .. } = self.columns;
        let triangle = from == first;
        let panels = self.workspace.as_mut_ptr();
        let resident = (RESIDENT / (4 * k.max(1)) / BLOCK * BLOCK).max(BLOCK);
        let width = NV * S::W;
        let (mut limits, mut hits, mut computed) = (Limits::NONE, Hits::new(), 0);
        // SAFETY: the panels hold the rows; blocks stay within the packed columns; no other thread has these rows and columns.
        unsafe {
            pack_panels(&self.x, 0, m, MR, panels);
            let (heavy, h) = (panels.add(m.next_multiple_of(MR) * k), self.heavy.columns);
            pack_panels(&self.heavy, 0, m, MR, heavy);
            for part in (from..to).step_by(resident) {
                for (p, i) in (0..m).step_by(MR).enumerate() {
                    let rows = MR.min(m - i);
                    let queries = &self.rows.queries[i..][..rows];
                    for block in (part..to.min(part + resident)).step_by(BLOCK) {
                        let end = to.min(block + BLOCK);
                        if triangle && end <= first + i + 1 {
                            continue;
                        }
                        limits.own[rows..].fill(f32::INFINITY);
                        limits.offset[rows..].fill(f32::INFINITY);
                        for (r, query) in queries.iter().enumerate() {
                            let error = self.columns.bounds.map_or(0.0, |b| query.error(&b[block / BLOCK]));
                            limits.set(r, board, first + i + r, error);
                        }
                        for c in (block..end).step_by(width) {
                            if triangle && c + width <= first + i + 1 {
                                continue;
                            }
                            let b = self.columns.panel(c, k);
                            let a = panels.add(p * MR * k);
                            let tile =
                                values::<S, E, MR>((k, a, b), (h, heavy.add(p * MR * h)), &self.columns, c, queries);
                            let reach: [S::V; NV] = std::array::from_fn(|v| S::load(board.reach.at(c + v * S::W)));
                            let (mut masks, mut any): (Masks, u32) = ([[0; NV]; MOST_ROWS], 0);
                            for (r, (row, masks)) in tile.iter().zip(&mut masks).enumerate() {
                                let (own, factor) = (S::splat(limits.own[r]), S::splat(limits.factor[r]));
                                for (v, mask) in masks.iter_mut().enumerate() {
                                    let theirs = S::fma(reach[v], factor, S::splat(limits.offset[r]));
                                    *mask = S::gt(row[v], S::min(own, theirs));
                                    any |= *mask;
                                }
                            }
                            if any == 0 {
                                continue;
                            }
                            hits.gather::<S, MR>(&tile, &masks);
                            if let Some(tails) = &self.tails {
                                let passes = |hit: Hit| {
                                    let (own, theirs) = limits.passed(board, c, hit);
                                    own || theirs
                                };
                                tails.complete::<S>(&mut hits, (i, c), (&self.heavy, &self.columns), passes);
                            }
                            computed += collect(board, &hits, &mut limits, (first + i, c, end), triangle);
                        }
                    }
                }
            }
        }
        computed
    }
}

/// Values of a tile whose rows begin with `row` of all vectors and its columns, below `end`, with `column`, to both sides.
///
/// # Safety
/// No other thread has these rows and columns.
#[cold]
#[inline(never)]
unsafe fn collect(
    board: &Board,
    hits: &Hits,
    limits: &mut Limits,
    (row, column, end): (usize, usize, usize),
    triangle: bool,
) -> usize {
    let mut computed = 0;
    for hit in hits.iter() {
        let (i, j) = (row + hit.row, column + hit.column);
        if j >= end || (triangle && j <= i) {
            continue;
        }
        let (value, error) = (hit.value + 0.0, limits.error[hit.row]);
        // SAFETY: the caller's promise.
        unsafe {
            // Again: thresholds may have risen within the tile.
            let (own, theirs) = limits.passed(board, column, hit);
            if own {
                let candidate = Candidate { lower: value - error, upper: value + error, id: j as u32 };
                let (floor, scored) = board.offer(i, candidate);
                limits.own[hit.row] = floor - error;
                computed += scored;
            }
            if theirs {
                computed += board.offer(j, board.mirrored(i, j, value, error)).1;
            }
        }
    }
    computed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FirstPass;

    /// Clusters, exact duplicates, zero rows, and rows beyond what the bounds hold for.
    fn vectors(n: usize, d: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let centres: Vec<f32> = (0..16 * d).map(|_| next()).collect();
        let mut out: Vec<f32> = (0..n * d).map(|at| centres[at / d % 16 * d + at % d] + 0.3 * next()).collect();
        for (i, row) in out.chunks_mut(d).enumerate() {
            match i % 97 {
                13 => row.fill(0.0),
                14 => row.copy_from_slice(&centres[..d]),
                15 => row.iter_mut().for_each(|v| *v *= 1e4),
                16 if i % 5 == 0 => row.iter_mut().for_each(|v| *v *= 1e18),
                17 => row.iter_mut().for_each(|v| *v *= 1e-25),
                _ => {}
            }
        }
        out
    }

    #[test]
    fn both_sides_of_a_pair_get_what_a_search_gives() {
        // One row; less than a tile; one side; three sides, and six.
        for (n, d, k) in [(1, 3, 2), (7, 5, 9), (200, 40, 3), (700, 33, 10), (1300, 17, 4)] {
            let data = vectors(n, d);
            for metric in [Metric::InnerProduct, Metric::Cosine, Metric::SquaredL2] {
                for pass in 0..3 {
                    let make = |isa| {
                        let pass = FirstPass::number(pass, d, isa);
                        ExactStore::new(Matrix::new(&data, n, d), metric, None, None, pass, 1, isa)
                    };
                    let store = make(Isa::best()).unwrap();
                    let (mut scores, mut ids) = (vec![f64::NEG_INFINITY; n * k], vec![-1; n * k]);
                    if n > 1 {
                        let out = (k, Shared::of(&mut scores), Shared::of(&mut ids));
                        store.search_own(k.min(n - 1), out, 1, Isa::best());
                    }
                    if metric == Metric::SquaredL2 {
                        scores.iter_mut().for_each(|s| *s = 0.0 - *s);
                    }
                    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                        let store = make(isa).unwrap();
                        for threads in [1, 3] {
                            let found = store.neighbours(k, threads, isa).unwrap();
                            let at = format!("{n} x {d}, {metric:?}, pass {pass}, {isa:?}, {threads} threads");
                            assert_eq!(found.ids, ids, "{at}");
                            assert_eq!(found.scores, scores, "{at}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_biased_store_is_searched() {
        let (n, d, k) = (300, 9, 5);
        let data = vectors(n, d);
        let bias: Vec<f32> = (0..n).map(|j| j as f32).collect();
        let store = ExactStore::new(
            Matrix::new(&data, n, d),
            Metric::Cosine,
            None,
            Some(&bias),
            FirstPass::Floats,
            1,
            Isa::best(),
        )
        .unwrap();
        let found = store.neighbours(k, 2, Isa::best()).unwrap();
        let last = |i: usize| if i == n - 1 { n - 2 } else { n - 1 } as i64;
        assert!((0..n).all(|i| found.ids[i * k] == last(i)));
    }
}
