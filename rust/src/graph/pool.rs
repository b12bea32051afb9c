//! The best vertices of a walk, and which vertices it has seen.

use crate::simd::{KEYS, Simd};

/// Vertices ranked by score, largest first, equal scores by the smaller number; each is walked from once.
///
/// A vertex is one number, so that ranking is integer comparison: the score turned so that larger ones come first, the vertex, and a bit
/// that says whether its edges were followed.
pub(super) struct Pool {
    /// 0, the keys in order, and [`NOTHING`] where there is room.
    keys: Vec<u64>,
    len: usize,
    capacity: usize,
    /// All before it were followed.
    next: usize,
    /// The score that a newcomer has to exceed, or to equal with a smaller number.
    floor: f32,
}

/// Beyond all keys.
const NOTHING: u64 = u64::MAX;
const FOLLOWED: u64 = 1;

/// Integers in the order of the floats, the other way round.
pub(super) fn falling(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { bits } else { !(bits | 1 << 31) }
}

/// The float of such an integer.
pub(super) fn of_falling(turned: u32) -> f32 {
    f32::from_bits(if turned >> 31 == 1 { turned } else { !turned & !(1 << 31) })
}

fn key(score: f32, vertex: u32) -> u64 {
    u64::from(falling(score)) << 32 | u64::from(vertex) << 1
}

/// The score of a key.
pub(super) fn score_of(key: u64) -> f32 {
    of_falling((key >> 32) as u32)
}

/// The vertex of a key.
pub(super) fn vertex_of(key: u64) -> u32 {
    key as u32 >> 1
}

impl Pool {
    pub(super) fn new() -> Pool {
        Pool { keys: Vec::new(), len: 0, capacity: 0, next: 1, floor: f32::NEG_INFINITY }
    }

    /// Empty, for the `capacity` best.
    pub(super) fn clear(&mut self, capacity: usize) {
        self.keys.clear();
        self.keys.resize(1 + capacity + KEYS, NOTHING);
        self.keys[0] = 0;
        (self.len, self.capacity, self.next, self.floor) = (0, capacity, 1, f32::NEG_INFINITY);
    }

    /// Best first.
    pub(super) fn keys(&self) -> &[u64] {
        &self.keys[1..][..self.len]
    }

    /// What a score has to reach to come in; −∞ while there is room.
    #[inline(always)]
    pub(super) fn floor(&self) -> f32 {
        self.floor
    }

    /// # Safety
    /// `S` is there.
    #[inline(always)]
    pub(super) unsafe fn insert<S: Simd>(&mut self, score: f32, vertex: u32) {
        let new = key(score, vertex);
        if new >= self.keys[self.capacity] {
            return;
        }
        // SAFETY: the caller's promise; behind the keys there is as much room.
        let at = unsafe { S::insert(self.keys.as_mut_ptr().add(1), self.len, new) };
        self.next = self.next.min(1 + at);
        if self.len == self.capacity {
            self.keys[1 + self.len] = NOTHING;
        } else {
            self.len += 1;
        }
        if self.len == self.capacity {
            self.floor = score_of(self.keys[self.capacity]);
        }
    }

    /// The best vertex whose edges were not followed, which they are from now on, and how many are better.
    #[inline(always)]
    pub(super) fn follow(&mut self) -> Option<(u32, usize)> {
        while self.next <= self.len {
            let key = &mut self.keys[self.next];
            self.next += 1;
            if *key & FOLLOWED == 0 {
                *key |= FOLLOWED;
                return Some((vertex_of(*key), self.next - 2));
            }
        }
        None
    }
}

/// Marks that are taken back all at once.
pub(super) struct Seen {
    /// A bit a vertex.
    marks: Vec<u32>,
    /// Who has one.
    marked: Vec<u32>,
}

/// Words of marks that are cleared in the time of one that lies alone.
const WORDS: usize = 8;

impl Seen {
    pub(super) fn new() -> Seen {
        Seen { marks: Vec::new(), marked: Vec::new() }
    }

    /// Nothing of `n` is marked.
    pub(super) fn clear(&mut self, n: usize) {
        let words = n.div_ceil(32);
        if self.marks.len() == words && self.marked.len() * WORDS < words {
            for &vertex in &self.marked {
                self.marks[vertex as usize / 32] = 0;
            }
        } else {
            self.marks.clear();
            self.marks.resize(words, 0);
        }
        self.marked.clear();
    }

    /// Those of `vertices`, the first `count`, that come for the first time, in order, come to its front; their number.
    ///
    /// # Safety
    /// `S` is there; vertices are below n, those that count differ, and `vertices` has room for whole vectors.
    #[inline(always)]
    pub(super) unsafe fn first<S: Simd>(&mut self, vertices: &mut [u32], count: usize) -> usize {
        // SAFETY: the caller's promise.
        let new = unsafe { S::mark_new(self.marks.as_mut_ptr(), vertices.as_mut_ptr(), count) };
        self.marked.extend_from_slice(&vertices[..new]);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, MOST_LANES};
    use proptest::prelude::*;

    /// (score, vertex) of those that a pool keeps, and the vertices that it follows.
    struct Kept<'a> {
        scores: &'a [f32],
        capacity: usize,
    }

    impl Kernel for Kept<'_> {
        type Out = (Vec<(f32, u32)>, Vec<(u32, usize)>);
        unsafe fn run<S: Simd, const MR: usize>(self) -> Self::Out {
            let mut pool = Pool::new();
            pool.clear(self.capacity);
            for (vertex, &score) in self.scores.iter().enumerate() {
                // SAFETY: `S` is the caller's promise.
                unsafe { pool.insert::<S>(score, vertex as u32) };
            }
            let kept = pool.keys().iter().map(|&k| (score_of(k), vertex_of(k))).collect();
            (kept, std::iter::from_fn(|| pool.follow()).collect())
        }
    }

    proptest! {
        #[test]
        fn a_pool_keeps_the_best_of_what_came_and_follows_each_once(
            scores in proptest::collection::vec(-9i8..9, 0..400), capacity in 1usize..200,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(|score| f32::from(score) * 0.5).collect();
            let mut sorted: Vec<(f32, u32)> = scores.iter().copied().zip(0..).collect();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            sorted.truncate(capacity);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                let (kept, followed) = isa.run(Kept { scores: &scores, capacity });
                prop_assert_eq!(&kept, &sorted);
                prop_assert_eq!(followed, sorted.iter().map(|s| s.1).zip(0..).collect::<Vec<_>>());
            }
        }
    }

    /// What comes for the first time in each row.
    struct New<'a> {
        seen: &'a mut Seen,
        rows: &'a [Vec<u32>],
    }

    impl Kernel for New<'_> {
        type Out = Vec<Vec<u32>>;
        unsafe fn run<S: Simd, const MR: usize>(self) -> Self::Out {
            let mut new = Vec::new();
            for row in self.rows {
                let mut vertices = row.clone();
                vertices.resize(row.len().next_multiple_of(MOST_LANES), 0);
                // SAFETY: `S` is the caller's promise; rows are those of the tests below.
                let count = unsafe { self.seen.first::<S>(&mut vertices, row.len()) };
                vertices.truncate(count);
                new.push(vertices);
            }
            new
        }
    }

    #[test]
    fn marks_are_gone_after_each_of_many_walks_short_and_long() {
        let n = 10_000u32;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let mut seen = Seen::new();
            for walk in 0..30 {
                // Multiples of an odd number modulo n, so that those of a row differ; the second row has every third of the first.
                let first: Vec<u32> =
                    (0..if walk % 3 == 0 { 3_000 } else { 40 }).map(|t| (t * 7_919 + walk) % n).collect();
                let second: Vec<u32> =
                    first.iter().enumerate().map(|(t, &v)| if t % 3 == 0 { v } else { (v + 1) % n }).collect();
                let wanted: Vec<u32> = second.iter().copied().filter(|v| !first.contains(v)).collect();
                seen.clear(n as usize);
                let new = isa.run(New { seen: &mut seen, rows: &[first.clone(), second] });
                assert_eq!(new, [first, wanted], "{} {walk}", isa.name());
            }
        }
    }
}
