//! The k best of a stream of candidates, whose scores may be known only to lie between two bounds.
//!
//! Candidates are appended while they can still be among the k best; a full buffer is cut back in linear time, so that any k costs O(1) a
//! candidate. With exact scores (`lower == upper`) the cut keeps k. With bounds it keeps whatever reaches the k-th largest lower
//! bound. Where that is too much, exact scores are taken of the few that are likely to be among the best: the threshold is then one
//! error below the k-th best, not two, which leaves a fraction of the candidates. From then on likely ones are scored a few at a time as
//! they come. The rest are scored at the end, in the order of their upper bounds, until none can reach the k-th ([`Selector::resolve`]).

use std::cmp::Ordering;

/// A column that may be among the k best of its row.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its score is at least this,
    pub lower: f32,
    /// and at most this.
    pub upper: f32,
    /// The column.
    pub id: u32,
}

impl Candidate {
    fn middle(&self) -> f32 {
        self.lower + 0.5 * (self.upper - self.lower)
    }
}

/// Exact scores of the columns of a row.
pub trait Exact: Sync {
    /// Scores of row `row` and the columns `ids`, as they are reported, into `out`.
    fn scores(&self, row: usize, ids: &[u32], out: &mut [f64]);
    /// `score`, rounded down, in the unit of the candidates' bounds.
    fn floor(&self, row: usize, score: f64) -> f32;
}

/// The best columns of one row so far.
pub struct Selector {
    k: usize,
    limit: usize,
    floor: f32,
    found: Vec<Candidate>,
    best: Vec<(f64, u32)>,
    /// Candidates since the last cut that are likely among the best.
    likely: usize,
}

/// Candidates between bounds that a row may have before all of them are scored.
const MOST: usize = 4096;
/// Exact scores that are asked for at a time.
const CHUNK: usize = 8;
/// Likely ones among the new candidates that are scored at once: a threshold that lags behind lets more through than that costs.
const EAGER: usize = 4;

/// Best first: the larger score, then the smaller id.
pub fn order(a: &(f64, u32), b: &(f64, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Selector {
    /// For the `k` best.
    pub fn new(k: usize) -> Selector {
        let limit = k + k.max(48);
        let floor = if k == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Selector { k, limit, floor, found: Vec::new(), best: Vec::new(), likely: 0 }
    }

    /// For all columns whose upper bound reaches `floor`.
    pub fn reaching(floor: f32) -> Selector {
        Selector { k: usize::MAX, limit: usize::MAX, floor, found: Vec::with_capacity(16), best: Vec::new(), likely: 0 }
    }

    /// No column with a score below this can be among the k best; with exact scores, neither can a later one that equals it.
    #[inline(always)]
    pub fn threshold(&self) -> f32 {
        self.floor
    }

    /// Append; true when the buffer is full.
    #[inline(always)]
    pub fn push(&mut self, candidate: Candidate) -> bool {
        if self.found.capacity() == 0 {
            self.found.reserve_exact(self.limit);
        }
        self.found.push(candidate);
        self.likely += usize::from(candidate.middle() >= self.floor);
        self.found.len() >= self.limit || (self.likely >= EAGER && self.best.len() == self.k)
    }

    /// Cut back exact candidates (`lower == upper`) to the k best.
    pub fn cut(&mut self) {
        if self.found.len() > self.k {
            let by = |a: &Candidate, b: &Candidate| b.lower.total_cmp(&a.lower).then(a.id.cmp(&b.id));
            self.found.select_nth_unstable_by(self.k - 1, by);
            self.found.truncate(self.k);
        }
        if self.found.len() == self.k {
            self.floor = self.found.iter().fold(f32::INFINITY, |least, c| least.min(c.lower));
        }
    }

    /// Cut back candidates of row `row` that are known by bounds. Returns how many exact scores were computed.
    pub fn cut_bounds(&mut self, row: usize, exact: &dyn Exact) -> usize {
        self.likely = 0;
        // Asked for by likely candidates, not for want of room.
        if self.best.len() == self.k && self.found.len() < self.limit {
            let computed = self.score(row, exact, |_, c, floor| c.middle() >= floor);
            let floor = self.floor;
            self.found.retain(|c| c.upper >= floor);
            return computed;
        }
        if self.found.len() >= self.k {
            let (_, kth, _) = self.found.select_nth_unstable_by(self.k - 1, |a, b| b.lower.total_cmp(&a.lower));
            self.floor = self.floor.max(kth.lower);
        }
        let floor = self.floor;
        self.found.retain(|c| c.upper >= floor);
        // Where bounds are tight they are enough.
        if self.found.len() <= self.k + (self.limit - self.k) / 2 {
            return 0;
        }
        let mut computed = 0;
        let missing = self.k - self.best.len();
        if missing > 0 && missing < self.found.len() {
            self.found.select_nth_unstable_by(missing - 1, |a, b| b.middle().total_cmp(&a.middle()));
            computed += self.score(row, exact, |i, _, _| i < missing);
        }
        computed += self.score(row, exact, |_, c, floor| c.middle() >= floor);
        let floor = self.floor;
        self.found.retain(|c| c.upper >= floor);
        if self.found.len() >= MOST {
            computed += self.resolve(row, exact);
        }
        // Room for as many again, so that a wide band of candidates is not cut again and again.
        self.limit = self.limit.max(2 * self.found.len());
        computed
    }

    /// Move the candidates that `wanted` names (by position, bounds, and the threshold before) to those of exact score.
    fn score(&mut self, row: usize, exact: &dyn Exact, wanted: impl Fn(usize, &Candidate, f32) -> bool) -> usize {
        let (floor, mut i) = (self.floor, 0);
        let mut ids = Vec::new();
        self.found.retain(|c| {
            let take = wanted(i, c, floor);
            i += 1;
            if take {
                ids.push(c.id);
            }
            !take
        });
        for ids in ids.chunks(CHUNK) {
            self.add(row, exact, ids);
        }
        ids.len()
    }

    fn add(&mut self, row: usize, exact: &dyn Exact, ids: &[u32]) {
        let mut scores = [0f64; CHUNK];
        exact.scores(row, ids, &mut scores[..ids.len()]);
        for (&score, &id) in scores.iter().zip(ids) {
            insert(&mut self.best, self.k, (score, id));
        }
        if self.best.len() == self.k {
            self.floor = self.floor.max(exact.floor(row, self.best[self.k - 1].0));
        }
    }

    /// Replace the candidates of row `row` by the k best exact scores among them and all before them. Returns how many were computed.
    pub fn resolve(&mut self, row: usize, exact: &dyn Exact) -> usize {
        let mut found = std::mem::take(&mut self.found);
        found.retain(|c| c.upper >= self.floor);
        found.sort_unstable_by(|a, b| b.upper.total_cmp(&a.upper).then(a.id.cmp(&b.id)));
        let (mut ids, mut computed) = ([0u32; CHUNK], 0);
        for chunk in found.chunks(CHUNK) {
            if chunk[0].upper < self.floor {
                break;
            }
            for (id, candidate) in ids.iter_mut().zip(chunk) {
                *id = candidate.id;
            }
            self.add(row, exact, &ids[..chunk.len()]);
            computed += chunk.len();
        }
        computed
    }

    /// The candidates as they came.
    pub fn into_candidates(self) -> Vec<Candidate> {
        self.found
    }

    /// The exact candidates, best first.
    pub fn into_sorted(mut self) -> Vec<Candidate> {
        if self.k == 0 {
            return Vec::new();
        }
        self.cut();
        self.found.sort_unstable_by(|a, b| b.lower.total_cmp(&a.lower).then(a.id.cmp(&b.id)));
        self.found
    }

    /// After [`Selector::resolve`]: the k best, best first.
    pub fn into_best(self) -> Vec<(f64, u32)> {
        self.best
    }
}

/// Into a sorted list of at most k.
pub fn insert(best: &mut Vec<(f64, u32)>, k: usize, entry: (f64, u32)) {
    if best.len() == k {
        match best.last() {
            Some(last) if order(&entry, last) == Ordering::Less => best.pop(),
            _ => return,
        };
    }
    let at = best.partition_point(|other| order(other, &entry) == Ordering::Less);
    best.insert(at, entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exact_candidates_leave_the_best_by_score_then_id(scores in proptest::collection::vec(-3i8..3, 0..300), k in 0usize..70) {
            let mut selector = Selector::new(k);
            for (id, &s) in scores.iter().enumerate() {
                let s = f32::from(s);
                if s > selector.threshold() && selector.push(Candidate { lower: s, upper: s, id: id as u32 }) {
                    selector.cut();
                }
            }
            let mut wanted: Vec<(f64, u32)> = scores.iter().enumerate().map(|(i, &s)| (f64::from(s), i as u32)).collect();
            wanted.sort_by(order);
            wanted.truncate(k);
            let got: Vec<(f64, u32)> = selector.into_sorted().iter().map(|c| (f64::from(c.lower), c.id)).collect();
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn bounds_that_hold_never_lose_one_of_the_best(
            scores in proptest::collection::vec((-20i8..20, 0u8..6), 0..400), k in 1usize..20
        ) {
            struct Table<'a>(&'a [(i8, u8)]);
            impl Exact for Table<'_> {
                fn scores(&self, _: usize, ids: &[u32], out: &mut [f64]) {
                    for (o, &id) in out.iter_mut().zip(ids) {
                        *o = f64::from(self.0[id as usize].0);
                    }
                }
                fn floor(&self, _: usize, score: f64) -> f32 {
                    score as f32
                }
            }
            let table = Table(&scores);
            let mut selector = Selector::new(k);
            for (id, &(s, width)) in scores.iter().enumerate() {
                let (s, width) = (f32::from(s), f32::from(width));
                let candidate = Candidate { lower: s - width / 2.0, upper: s + width, id: id as u32 };
                if candidate.upper >= selector.threshold() && selector.push(candidate) {
                    selector.cut_bounds(0, &table);
                }
            }
            selector.resolve(0, &table);
            let mut wanted: Vec<(f64, u32)> =
                scores.iter().enumerate().map(|(i, s)| (f64::from(s.0), i as u32)).collect();
            wanted.sort_by(order);
            wanted.truncate(k);
            prop_assert_eq!(selector.into_best(), wanted);
        }
    }
}
