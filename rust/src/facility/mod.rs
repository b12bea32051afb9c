//! Facility location: the few items that are similar to all others, chosen one by one.
//!
//! F(S) = Σ_i max_{j ∈ S} s_ij is monotone and submodular for s ≥ 0, so that taking the item of the largest gain each time reaches
//! (1 − 1/e) of the best S of that size (Nemhauser, Wolsey & Fisher 1978). Gains only fall while S grows: an old gain is a bound, and
//! only candidates whose bound reaches the best fresh gain are looked at again (Minoux, "Accelerated greedy algorithms", 1978). The result is
//! that of looking at all of them, to the bit: a gain is a sum in a fixed order of terms that do not rise, and rounding keeps order.

mod stored;
mod vectors;

pub use stored::Stored;
pub use vectors::Vectors;

use crate::error::ArgumentError;
use crate::stop::checkpoint;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Candidates looked at in one go, at most.
const MOST: usize = 1024;

/// How much candidates cover, and what is covered already.
pub trait Similarity {
    /// Candidates.
    fn candidates(&self) -> usize;
    /// Gains before anything is chosen, or more.
    fn bounds(&self) -> Vec<f64>;
    /// Candidates that take hardly more time than one.
    fn together(&self) -> usize;
    /// Σ_i max(0, s_ij − cover_i) of some candidates.
    fn gains(&mut self, candidates: &[u32]) -> Vec<f64>;
    /// Raise the cover by candidate `j`, the `number`-th that is chosen.
    fn choose(&mut self, j: u32, number: usize);
    /// Which of the chosen each item is most similar to, the first of equals; −1 where none is similar at all.
    fn owners(&self) -> &[i64];
}

/// The chosen candidates, in their order.
pub struct Chosen {
    /// Candidates.
    pub ids: Vec<i64>,
    /// What each added to F.
    pub gains: Vec<f64>,
    /// By item, the number of the chosen candidate that covers it, or −1.
    pub owners: Vec<i64>,
}

/// A candidate by its gain, or a bound of it. The larger gain is the greater; of equal ones the smaller id.
#[derive(Clone, Copy, PartialEq)]
struct Entry {
    gain: f64,
    id: u32,
}

impl Eq for Entry {}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.id.cmp(&self.id))
    }
}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `size` candidates by lazy greedy choice; of equal gains the smaller id.
///
/// # Errors
/// More than there are candidates.
pub fn facility_location(similarity: &mut impl Similarity, size: usize) -> Result<Chosen, ArgumentError> {
    if size > similarity.candidates() {
        let most = similarity.candidates();
        return Err(ArgumentError::Value(format!("size: wanted at most the {most} candidates, got {size}")));
    }
    let bounds = similarity.bounds().into_iter().zip(0..);
    let mut heap: BinaryHeap<Entry> = bounds.map(|(gain, id)| Entry { gain, id }).collect();
    let (mut ids, mut gains) = (Vec::with_capacity(size), Vec::with_capacity(size));
    let (mut asked, mut fresh) = (Vec::new(), Vec::new());
    for number in 0..size {
        let mut best: Option<Entry> = None;
        let mut together = similarity.together();
        loop {
            while asked.len() < together && heap.peek().is_some_and(|top| best.is_none_or(|b| *top > b)) {
                asked.extend(heap.pop().map(|e| e.id));
            }
            if asked.is_empty() {
                break;
            }
            checkpoint();
            let found = similarity.gains(&asked);
            fresh.extend(asked.drain(..).zip(found).map(|(id, gain)| Entry { gain, id }));
            best = fresh.iter().copied().max();
            together = (2 * together).min(MOST.max(similarity.together()));
        }
        if let Some(best) = best {
            similarity.choose(best.id, number);
            ids.push(i64::from(best.id));
            gains.push(best.gain);
            heap.extend(fresh.drain(..).filter(|e| e.id != best.id));
        }
    }
    Ok(Chosen { ids, gains, owners: similarity.owners().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;
    use crate::tile::Matrix;
    use proptest::prelude::*;

    /// Greedy choice by definition, all candidates each time.
    fn naive(s: &[Vec<f32>], size: usize) -> (Vec<i64>, Vec<f64>) {
        let mut cover = vec![0f32; s[0].len()];
        let (mut ids, mut gains) = (Vec::new(), Vec::new());
        for _ in 0..size {
            let gain = |j: usize| s[j].iter().zip(&cover).map(|(s, c)| f64::from((s - c).max(0.0))).sum::<f64>();
            let left = (0..s.len()).filter(|&j| !ids.contains(&(j as i64)));
            let best = left.map(|j| (gain(j), j)).reduce(|a, b| if b.0 > a.0 { b } else { a }).unwrap();
            s[best.1].iter().zip(&mut cover).for_each(|(s, c)| *c = c.max(*s));
            ids.push(best.1 as i64);
            gains.push(best.0);
        }
        (ids, gains)
    }

    /// Small integers: all sums are exact, and there are many ties.
    fn integers() -> impl Strategy<Value = (Vec<Vec<f32>>, usize)> {
        (1usize..40, 1usize..6).prop_flat_map(|(n, d)| {
            let row = proptest::collection::vec((-3i8..4).prop_map(f32::from), d);
            (proptest::collection::vec(row, n), 0..n + 1)
        })
    }

    proptest! {
        #[test]
        fn from_vectors_as_from_all_gains((rows, size) in integers(), threads in 1usize..4) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let bias: Vec<f32> = rows.iter().map(|r| 200.0 - dot(r, r)).collect();
            let of_pair = |i: usize, j: usize| 2.0 * dot(&rows[i], &rows[j]) + bias[i] + bias[j];
            let s: Vec<Vec<f32>> = (0..rows.len()).map(|j| (0..rows.len()).map(|i| of_pair(i, j)).collect()).collect();
            let (ids, gains) = naive(&s, size);
            let data = rows.concat();
            let x = Matrix::new(&data, rows.len(), rows[0].len());
            for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                let mut from_vectors = Vectors::new(x, 2.0, &bias, threads, isa).unwrap();
                let found = facility_location(&mut from_vectors, size).unwrap();
                prop_assert_eq!((&found.ids, &found.gains), (&ids, &gains));
                let whole = s.concat();
                let mut dense = Stored::dense(Matrix::new(&whole, rows.len(), rows.len())).unwrap();
                let dense = facility_location(&mut dense, size).unwrap();
                prop_assert_eq!((&dense.ids, &dense.gains, &dense.owners), (&ids, &gains, &found.owners));
                for (i, owner) in found.owners.iter().enumerate().filter(|_| size > 0) {
                    let most = ids.iter().map(|&j| s[j as usize][i]).reduce(f32::max).unwrap();
                    let first = ids.iter().position(|&j| s[j as usize][i] == most).unwrap();
                    prop_assert_eq!(*owner, first as i64);
                }
            }
        }

        #[test]
        fn from_lists_as_from_their_matrix(
            scores in proptest::collection::vec(proptest::collection::vec(-2i8..5, 3), 4..30), size in 0usize..4
        ) {
            let n = scores.len();
            // Neighbours i + 1, i + 2, i + 3, the last one missing.
            let ids: Vec<i64> = (0..n).flat_map(|i| [(i + 1) % n, (i + 2) % n]).map(|i| i as i64).collect();
            let ids: Vec<i64> = ids.chunks(2).flat_map(|c| [c[0], c[1], -1]).collect();
            let values: Vec<f32> = scores.iter().flatten().map(|&s| f32::from(s)).collect();
            let mut s = vec![vec![0f32; n]; n];
            for i in 0..n {
                s[i][i] = 3.0;
                for t in 0..2 {
                    s[ids[3 * i + t] as usize][i] = values[3 * i + t].max(0.0);
                }
            }
            let found = facility_location(&mut Stored::lists(&ids, &values, 3, 3.0).unwrap(), size).unwrap();
            let whole = s.concat();
            let dense = facility_location(&mut Stored::dense(Matrix::new(&whole, n, n)).unwrap(), size).unwrap();
            prop_assert_eq!((&found.ids, &found.gains, &found.owners), (&dense.ids, &dense.gains, &dense.owners));
            prop_assert_eq!((found.ids, found.gains), naive(&s, size));
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let one = [1f32];
        let mut whole = Stored::dense(Matrix::new(&one, 1, 1)).unwrap();
        assert!(facility_location(&mut whole, 2).err().unwrap().to_string().starts_with("size:"));
        for wrong in [f32::NAN, -1.0, f32::INFINITY] {
            let refused = Stored::dense(Matrix::new(&[wrong], 1, 1)).err().unwrap().to_string();
            assert!(refused.starts_with("similarity:"));
        }
        assert!(Stored::lists(&[1], &one, 1, 1.0).err().unwrap().to_string().starts_with("ids:"));
        assert!(Stored::lists(&[0], &[f32::INFINITY], 1, 1.0).err().unwrap().to_string().starts_with("scores:"));
        assert!(Stored::lists(&[0], &one, 1, -1.0).err().unwrap().to_string().starts_with("self_similarity:"));
        let x = Matrix::new(&one, 1, 1);
        assert!(Vectors::new(x, 1.0, &[], 1, Isa::best()).err().unwrap().to_string().starts_with("bias:"));
    }
}
