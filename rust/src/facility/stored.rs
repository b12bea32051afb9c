//! Similarities that a caller has: a whole matrix, or the lists of a graph of nearest neighbours.

use super::Similarity;
use crate::error::{ArgumentError, length};
use crate::stop::filled;
use crate::tile::Matrix;
use std::borrow::Cow;

/// By candidate, the items that it is similar to.
pub struct Stored<'a> {
    /// `None`: every row has all items.
    items: Option<(Vec<usize>, Vec<u32>)>,
    values: Cow<'a, [f32]>,
    candidates: usize,
    cover: Vec<f32>,
    owners: Vec<i64>,
}

fn value<T>(text: String) -> Result<T, ArgumentError> {
    Err(ArgumentError::Value(text))
}

impl<'a> Stored<'a> {
    /// Row j: how similar candidate j is to each item.
    ///
    /// # Errors
    /// Values that are negative or not finite, 2^32 rows.
    pub fn dense(similarity: Matrix<'a, f32>) -> Result<Stored<'a>, ArgumentError> {
        if let Some(s) = similarity.data.iter().find(|s| !(0.0..f32::INFINITY).contains(*s)) {
            return value(format!("similarity: wanted finite values of at least 0, got {s}"));
        }
        if u32::try_from(similarity.rows).is_err() {
            return value(format!("similarity: wanted fewer than 2^32 rows, got {}", similarity.rows));
        }
        Ok(Stored {
            items: None,
            values: Cow::Borrowed(similarity.data),
            candidates: similarity.rows,
            cover: vec![0.0; similarity.columns],
            owners: vec![-1; similarity.columns],
        })
    }

    /// The `k` neighbours of each item, −1 where there are fewer: it is covered by them as much as their scores say, and by itself as
    /// much as `itself`. Other pairs, and negative scores, cover nothing.
    ///
    /// # Errors
    /// Lengths that differ, ids that are no items, scores that are not finite, `itself` below 0.
    pub fn lists(ids: &[i64], scores: &[f32], k: usize, itself: f32) -> Result<Stored<'a>, ArgumentError> {
        length("scores", ids.len(), scores.len())?;
        let n = ids.len().checked_div(k).unwrap_or(0);
        if u32::try_from(n).is_err() {
            return value(format!("ids: wanted fewer than 2^32 rows, got {n}"));
        }
        if let Some(id) = ids.iter().find(|&&id| id < -1 || id >= n as i64) {
            return value(format!("ids: wanted items in 0..{n} or -1, got {id}"));
        }
        if let Some((s, _)) = scores.iter().zip(ids).find(|(s, id)| **id >= 0 && !s.is_finite()) {
            return value(format!("scores: wanted finite values, got {s}"));
        }
        if !(0.0..f32::INFINITY).contains(&itself) {
            return value(format!("self_similarity: wanted a finite value of at least 0, got {itself}"));
        }
        let covers = |at: usize| {
            let (i, j, s) = (at / k, ids[at], scores[at]);
            (j >= 0 && j != i as i64 && s > 0.0).then_some((i, j as usize, s))
        };
        // By candidate, items in rising order: count, then place.
        let mut starts = filled(0usize, n + 1);
        (0..ids.len()).filter_map(covers).for_each(|(_, j, _)| starts[j + 1] += 1);
        (0..n).for_each(|j| starts[j + 1] += starts[j] + 1);
        let mut next = starts.clone();
        let (mut items, mut values) = (filled(0u32, starts[n]), filled(0f32, starts[n]));
        let mut place = |i: usize, j: usize, s: f32| {
            (items[next[j]], values[next[j]]) = (i as u32, s);
            next[j] += 1;
        };
        for i in 0..n {
            place(i, i, itself);
            (i * k..(i + 1) * k).filter_map(covers).for_each(|(i, j, s)| place(i, j, s));
        }
        Ok(Stored {
            items: Some((starts, items)),
            values: Cow::Owned(values),
            candidates: n,
            cover: vec![0.0; n],
            owners: vec![-1; n],
        })
    }

    /// The items of candidate `j` and its similarities to them.
    fn row(&self, j: u32) -> impl Iterator<Item = (usize, f32)> {
        let j = j as usize;
        let (from, to, items) = match &self.items {
            None => (j * self.cover.len(), (j + 1) * self.cover.len(), None),
            Some((starts, items)) => (starts[j], starts[j + 1], Some(&items[starts[j]..starts[j + 1]])),
        };
        self.values[from..to].iter().enumerate().map(move |(t, &s)| (items.map_or(t, |items| items[t] as usize), s))
    }

    fn gain(&self, j: u32) -> f64 {
        self.row(j).map(|(i, s)| f64::from((s - self.cover[i]).max(0.0))).sum()
    }
}

impl Similarity for Stored<'_> {
    fn candidates(&self) -> usize {
        self.candidates
    }

    fn bounds(&self) -> Vec<f64> {
        (0..self.candidates as u32).map(|j| self.gain(j)).collect()
    }

    fn together(&self) -> usize {
        1
    }

    fn gains(&mut self, candidates: &[u32]) -> Vec<f64> {
        candidates.iter().map(|&j| self.gain(j)).collect()
    }

    fn choose(&mut self, j: u32, number: usize) {
        let better: Vec<(usize, f32)> = self.row(j).filter(|&(i, s)| s > self.cover[i]).collect();
        for (i, s) in better {
            self.cover[i] = s;
            self.owners[i] = number as i64;
        }
    }

    fn owners(&self) -> &[i64] {
        &self.owners
    }
}
