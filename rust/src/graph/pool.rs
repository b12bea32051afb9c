//! The best vertices of a walk, and which vertices it has seen.

/// Vertices ranked by score, largest first, equal scores by the smaller number; each is walked from once.
///
/// A vertex is one number, so that ranking is integer comparison: the score turned so that larger ones come first, the vertex, and a bit
/// that says whether its edges were followed.
pub(super) struct Pool {
    keys: Vec<u64>,
    capacity: usize,
    /// All before it were followed.
    next: usize,
    /// The score that a newcomer has to exceed, or to equal with a smaller number.
    floor: f32,
}

const FOLLOWED: u64 = 1;

fn key(score: f32, vertex: u32) -> u64 {
    let bits = score.to_bits();
    // Integers in the order of the floats, then turned.
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!rising) << 32 | u64::from(vertex) << 1
}

/// The score of a key.
pub(super) fn score_of(key: u64) -> f32 {
    let rising = !((key >> 32) as u32);
    f32::from_bits(if rising >> 31 == 1 { rising & !(1 << 31) } else { !rising })
}

/// The vertex of a key.
pub(super) fn vertex_of(key: u64) -> u32 {
    key as u32 >> 1
}

impl Pool {
    pub(super) fn new() -> Pool {
        Pool { keys: Vec::new(), capacity: 0, next: 0, floor: f32::NEG_INFINITY }
    }

    /// Empty, for the `capacity` best.
    pub(super) fn clear(&mut self, capacity: usize) {
        self.keys.clear();
        self.keys.reserve(capacity + 1);
        (self.capacity, self.next, self.floor) = (capacity, 0, f32::NEG_INFINITY);
    }

    /// Best first.
    pub(super) fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// What a score has to reach to come in; −∞ while there is room.
    #[inline(always)]
    pub(super) fn floor(&self) -> f32 {
        self.floor
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, score: f32, vertex: u32) {
        let new = key(score, vertex);
        if self.keys.len() == self.capacity {
            if self.keys.last().is_none_or(|&last| new >= last) {
                return;
            }
            self.keys.pop();
        }
        let at = self.keys.partition_point(|&k| k < new);
        self.keys.insert(at, new);
        self.next = self.next.min(at);
        if self.keys.len() == self.capacity {
            self.floor = self.keys.last().map_or(f32::INFINITY, |&k| score_of(k));
        }
    }

    /// The best vertex whose edges were not followed, which they are from now on.
    #[inline(always)]
    pub(super) fn follow(&mut self) -> Option<u32> {
        while let Some(key) = self.keys.get_mut(self.next) {
            self.next += 1;
            if *key & FOLLOWED == 0 {
                *key |= FOLLOWED;
                return Some(vertex_of(*key));
            }
        }
        None
    }
}

/// Marks that are taken back all at once.
pub(super) struct Seen {
    /// The last, beyond all vertices, is always set.
    marks: Vec<u8>,
    epoch: u8,
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen { marks: Vec::new(), epoch: 0 }
    }

    /// Nothing of `n` is marked.
    pub(super) fn clear(&mut self, n: usize) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.marks.len() != n + 1 || self.epoch == 0 {
            self.marks.clear();
            self.marks.resize(n + 1, 0);
            self.epoch = 1;
        }
        self.marks[n] = self.epoch;
    }

    /// Those of `vertices` that come for the first time, in order, in front of `fresh`, which is as long; their number. Vertices beyond
    /// n never do.
    #[inline(always)]
    pub(super) fn first(&mut self, vertices: &[u32], fresh: &mut [u32]) -> usize {
        let (marks, epoch) = (&mut self.marks[..], self.epoch);
        let n = marks.len() - 1;
        let fresh = &mut fresh[..vertices.len()];
        let mut count = 0;
        for &vertex in vertices {
            // No branch: half of all vertices were met, in no order that a processor could learn.
            fresh[count] = vertex;
            let mark = &mut marks[n.min(vertex as usize)];
            count += usize::from(std::mem::replace(mark, epoch) != epoch);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pool_keeps_the_best_of_what_came_and_follows_each_once(
            scores in proptest::collection::vec(-4i8..4, 0..60), capacity in 1usize..20,
        ) {
            let mut pool = Pool::new();
            pool.clear(capacity);
            let mut sorted = Vec::new();
            for (vertex, score) in scores.into_iter().enumerate() {
                let score = f32::from(score) * 0.5;
                pool.insert(score, vertex as u32);
                sorted.push((score, vertex as u32));
            }
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            sorted.truncate(capacity);
            let kept: Vec<_> = pool.keys().iter().map(|&k| (score_of(k), vertex_of(k))).collect();
            prop_assert_eq!(&kept, &sorted);
            let followed: Vec<_> = std::iter::from_fn(|| pool.follow()).collect();
            prop_assert_eq!(followed, sorted.into_iter().map(|s| s.1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn marks_are_gone_after_each_of_many_epochs() {
        let mut seen = Seen::new();
        for _ in 0..600 {
            let mut fresh = [0; 5];
            seen.clear(3);
            assert_eq!(seen.first(&[2, 0, 2, 3, u32::MAX], &mut fresh), 2);
            assert_eq!(fresh[..2], [2, 0]);
            assert_eq!(seen.first(&[1, 0], &mut fresh), 1);
        }
    }
}
