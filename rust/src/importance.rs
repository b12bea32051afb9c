//! What each item of a corpus is worth to retrieval: the exact gradient of the multilinear extension of a top-K utility.
//!
//! A query retrieves M items, best first; item i adds f_i where it is used, and is in the corpus with probability p_i, independently.
//! The first K that are there are used, so that the expected utility is
//!
//! ```text
//! U(p)    = 1/K Σ_i f_i p_i Σ_{a<K} B_i[a]                 B_i[a] = Pr(a items before i are there)
//! ∂U/∂p_i = 1/K Σ_{a<K} B_i[a] (f_i − A_i[a])              A_i[a] = E[f of the (K − a)-th item after i that is there, 0 if none]
//! ```
//!
//! since an item that comes in pushes out the K-th. Both have recurrences of one step an item, O(M K) in all: B forward and A backward.
//! The utility and its maximisation: Lyu et al., arXiv:2307.03027, who count over the distinct values of f instead of taking A.

use crate::buffer::{Shared, results};
use crate::error::{ArgumentError, length};
use crate::stop::filled;
use crate::team;

/// Queries of a unit.
const QUERIES: usize = 32;
/// Sums that run beside each other; one chain of additions would be three times as slow.
const LANES: usize = 4;

/// What queries retrieved: `m` items each.
#[derive(Clone, Copy)]
pub struct Retrieved<'a> {
    /// (queries, m) items, best first; −1 where a list is shorter.
    pub ids: &'a [i64],
    /// (queries, m) what each adds where it is used.
    pub utilities: &'a [f64],
    /// Length of a list.
    pub m: usize,
}

/// Expected utilities, and their gradient.
pub struct Importance {
    /// U of each query.
    pub values: Vec<f64>,
    /// Σ over the queries of ∂U/∂p, for each item.
    pub gradient: Vec<f64>,
}

/// U of each query and the gradient of their sum, when item j is there with probability `weights[j]` and the first `k` are used.
/// The same bits for any number of threads.
///
/// # Errors
/// Lengths that differ, ids that are no items, utilities that are not finite, weights outside 0 to 1, k = 0, too little memory for m · k
/// numbers a thread. That an id occurs once in a list is left to the caller.
pub fn importance(lists: Retrieved, weights: &[f64], k: usize, threads: usize) -> Result<Importance, ArgumentError> {
    let Retrieved { ids, utilities, m } = lists;
    length("utilities", ids.len(), utilities.len())?;
    let wrong = |text: String| Err(ArgumentError::Value(text));
    if k == 0 {
        return wrong("k: wanted at least 1, got 0".into());
    }
    if let Some(id) = ids.iter().find(|&&id| id < -1 || id >= weights.len() as i64) {
        return wrong(format!("ids: wanted items in 0..{} or -1, got {id}", weights.len()));
    }
    if let Some(f) = utilities.iter().find(|f| !f.is_finite()) {
        return wrong(format!("utilities: wanted finite values, got {f}"));
    }
    if let Some(p) = weights.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return wrong(format!("weights: wanted values in 0 to 1, got {p}"));
    }
    let queries = ids.len().checked_div(m).unwrap_or(0);
    let units = queries.div_ceil(QUERIES);
    let threads = threads.min(units).max(1);
    // At most m items are there: further slots stay empty.
    let slots = k.min(m);
    let mut tables = results(threads * m, slots, 0f64)?;
    let mut values = filled(0f64, queries);
    let mut parts = filled(0f64, queries * m);
    let (to_values, to_parts, to_tables) = (Shared::of(&mut values), Shared::of(&mut parts), Shared::of(&mut tables));
    let thread = std::sync::atomic::AtomicUsize::new(0);
    team::run(threads, |team| {
        let own = thread.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: every thread has its own table.
        let before = unsafe { std::slice::from_raw_parts_mut(to_tables.at(own * m * slots), m * slots) };
        let (mut p, mut f) = (vec![0f64; m], vec![0f64; m]);
        let mut after = vec![0f64; slots + 1];
        team.for_each(units, |u| {
            for q in u * QUERIES..queries.min((u + 1) * QUERIES) {
                for (t, &id) in ids[q * m..][..m].iter().enumerate() {
                    // What is never there changes nothing.
                    (p[t], f[t]) = if id < 0 { (0.0, 0.0) } else { (weights[id as usize], utilities[q * m + t]) };
                }
                // SAFETY: every query is taken by one unit.
                unsafe {
                    let gradient = std::slice::from_raw_parts_mut(to_parts.at(q * m), m);
                    *to_values.at(q) = one_query(&f, &p, k, before, &mut after, gradient);
                }
            }
        });
    });
    let mut gradient = vec![0f64; weights.len()];
    for (&id, part) in ids.iter().zip(&parts) {
        if id >= 0 {
            gradient[id as usize] += part;
        }
    }
    Ok(Importance { values, gradient })
}

/// U of one query; its derivatives into `gradient`. `before` holds B, item by item; `after` is A, and one more value.
fn one_query(f: &[f64], p: &[f64], k: usize, before: &mut [f64], after: &mut [f64], gradient: &mut [f64]) -> f64 {
    let (slots, share) = (after.len() - 1, 1.0 / k as f64);
    let mut value = 0.0;
    before[..slots].fill(0.0);
    before[0] = 1.0;
    for i in 0..f.len() {
        let (row, rest) = before[i * slots..].split_at_mut(slots);
        value += f[i] * p[i] * row.iter().sum::<f64>();
        if let Some(next) = rest.get_mut(..slots) {
            let absent = 1.0 - p[i];
            next[0] = absent * row[0];
            for (to, pair) in next[1..].iter_mut().zip(row.windows(2)) {
                *to = absent * pair[1] + p[i] * pair[0];
            }
        }
    }
    after.fill(0.0);
    for i in (0..f.len()).rev() {
        gradient[i] = share * weighted(&before[i * slots..][..slots], f[i], &after[..slots]);
        after[slots] = f[i];
        let absent = 1.0 - p[i];
        for a in 0..slots {
            after[a] = absent * after[a] + p[i] * after[a + 1];
        }
    }
    share * value
}

/// Σ_a b[a] (f − after[a])
fn weighted(b: &[f64], f: f64, after: &[f64]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (whole, other) = (b.chunks_exact(LANES), after.chunks_exact(LANES));
    let rest = whole.remainder().iter().zip(other.remainder()).map(|(b, a)| b * (f - a)).sum::<f64>();
    for (b, a) in whole.zip(other) {
        for l in 0..LANES {
            lanes[l] += b[l] * (f - a[l]);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// U by definition: over all subsets of the items.
    fn enumerated(f: &[f64], p: &[f64], k: usize) -> f64 {
        (0..1u32 << f.len())
            .map(|set| {
                let there = |i: &usize| set >> i & 1 == 1;
                let probability: f64 = (0..f.len()).map(|i| if there(&i) { p[i] } else { 1.0 - p[i] }).product();
                let used: f64 = (0..f.len()).filter(there).take(k).map(|i| f[i]).sum();
                probability * used / k as f64
            })
            .sum()
    }

    fn at(mut p: Vec<f64>, i: usize, value: f64) -> Vec<f64> {
        p[i] = value;
        p
    }

    proptest! {
        #[test]
        fn value_and_gradient_are_those_of_all_subsets(
            lists in proptest::collection::vec((-4i8..5, 0u8..5), 1..9), k in 1usize..11
        ) {
            let f: Vec<f64> = lists.iter().map(|l| f64::from(l.0) / 3.0).collect();
            let p: Vec<f64> = lists.iter().map(|l| f64::from(l.1) / 4.0).collect();
            let ids: Vec<i64> = (0..f.len() as i64).collect();
            let found = importance(Retrieved { ids: &ids, utilities: &f, m: f.len() }, &p, k, 1).unwrap();
            prop_assert!((found.values[0] - enumerated(&f, &p, k)).abs() < 1e-14);
            for i in 0..f.len() {
                // U is linear in each probability.
                let slope = enumerated(&f, &at(p.clone(), i, 1.0), k) - enumerated(&f, &at(p.clone(), i, 0.0), k);
                prop_assert!((found.gradient[i] - slope).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn threads_and_padding_change_no_bit() {
        let (queries, m) = (150, 7);
        let ids: Vec<i64> = (0..queries * m).map(|i| (i * 31 % 97) as i64).collect();
        let utilities: Vec<f64> = (0..queries * m).map(|i| (i % 11) as f64 / 7.0 - 0.4).collect();
        let weights: Vec<f64> = (0..97).map(|i| i as f64 / 96.0).collect();
        let one = importance(Retrieved { ids: &ids, utilities: &utilities, m }, &weights, 3, 1).unwrap();
        let many = importance(Retrieved { ids: &ids, utilities: &utilities, m }, &weights, 3, 5).unwrap();
        assert_eq!((&one.values, &one.gradient), (&many.values, &many.gradient));
        let wider = |row: &[i64]| row.iter().copied().chain([-1]).collect::<Vec<_>>();
        let padded: Vec<i64> = ids.chunks(m).flat_map(wider).collect();
        let utilities: Vec<f64> = utilities.chunks(m).flat_map(|row| row.iter().copied().chain([9.0])).collect();
        let padded = Retrieved { ids: &padded, utilities: &utilities, m: m + 1 };
        assert_eq!(importance(padded, &weights, 3, 2).unwrap().gradient, one.gradient);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let ask = |ids: &[i64], utilities: &[f64], weights: &[f64], k| {
            importance(Retrieved { ids, utilities, m: 1 }, weights, k, 1).err().unwrap().to_string()
        };
        assert!(ask(&[0], &[1.0], &[0.5], 0).starts_with("k:"));
        assert!(ask(&[1], &[1.0], &[0.5], 1).starts_with("ids:"));
        assert!(ask(&[0], &[f64::NAN], &[0.5], 1).starts_with("utilities:"));
        assert!(ask(&[0], &[1.0], &[1.5], 1).starts_with("weights:"));
        assert!(ask(&[0], &[], &[0.5], 1).starts_with("utilities:"));
    }
}
