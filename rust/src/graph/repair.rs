//! Removal: vertices that pointed to a removed one get other neighbours, from behind it [1]; nothing of it stays reachable.
//!
//! [1] Singh et al., FreshDiskANN, arXiv:2105.09613, algorithm 4. Where most neighbours are removed at once, their removed neighbours are
//! looked behind as well, until there are candidates enough.

use super::build::neighbours;
use super::prune::{CHUNK, Prune, Pruner};
use super::walk::{NONE, Terrain};
use super::{ENTRIES, Graph};
use crate::buffer::Shared;
use crate::error::ArgumentError;
use crate::file::section::{Plain, Section};
use crate::simd::Isa;
use crate::stop::{filled, room_for};
use crate::team;
use std::collections::HashSet;

/// Removed vertices that are looked behind for one that stays.
const MOST_BEHIND: usize = 256;

impl Graph {
    /// Remove items.
    ///
    /// # Errors
    /// An id that is not here, or that comes twice; then nothing is removed.
    pub fn remove(&mut self, ids: &[i64], threads: usize, isa: Isa) -> Result<(), ArgumentError> {
        let mut removed = filled(false, self.slots());
        for &id in ids {
            let slot = self.slot(id).ok_or_else(|| ArgumentError::Value(format!("ids: no item {id}")))?;
            if std::mem::replace(&mut removed[slot], true) {
                return Err(ArgumentError::Value(format!("ids: {id} comes twice")));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        let slots = self.ids.to_mut();
        for (id, _) in slots.iter_mut().zip(&removed).filter(|(_, gone)| **gone) {
            *id = !*id;
        }
        self.live -= ids.len();
        let rows = self.rows_without(&removed, threads, isa);
        self.edges.to_mut().copy_from_slice(&rows);
        self.entries.retain(|&v| !removed[v as usize]);
        self.refill_entries();
        self.connect(isa);
        Ok(())
    }

    /// The edges of all vertices that stay, none of which leads to a removed one.
    fn rows_without(&self, removed: &[bool], threads: usize, isa: Isa) -> Vec<u32> {
        let (n, degree) = (self.slots(), self.degree);
        let mut rows = filled(NONE, n * degree);
        let out = Shared::of(&mut rows);
        let (terrain, points) = (self.terrain(), &self.points(threads, isa));
        team::run(threads, |team| {
            let mut pruner = Pruner::default();
            team.for_each(n.div_ceil(CHUNK), |u| {
                for vertex in (u * CHUNK..n.min((u + 1) * CHUNK)).filter(|&v| self.is_live(v)) {
                    let row = neighbours(terrain.edges(vertex as u32));
                    // SAFETY: every row is written once, and is as long as the degree.
                    let to = unsafe { std::slice::from_raw_parts_mut(out.at(vertex * degree), degree) };
                    if row.iter().any(|&v| removed[v as usize]) {
                        let candidates = behind(&terrain, row, removed, self.breadth);
                        let (vertex, candidates, pruner) = (vertex as u32, &candidates[..], &mut pruner);
                        let kept = isa.run(Prune { terrain, points, vertex, candidates, pruner });
                        to[..kept.len()].copy_from_slice(kept);
                    } else {
                        to[..row.len()].copy_from_slice(row);
                    }
                }
            });
        });
        rows
    }

    /// The slot of a live item.
    fn slot(&self, id: i64) -> Option<usize> {
        // Ids rise with the slots, and those of removed items are kept as their complements.
        let slot = self.ids.binary_search_by_key(&id, |&kept| kept.max(!kept)).ok()?;
        self.is_live(slot).then_some(slot)
    }

    /// The vectors of items, row after row.
    ///
    /// # Errors
    /// An id that is not here.
    pub fn vectors_of(&self, ids: &[i64]) -> Result<Vec<f32>, ArgumentError> {
        room_for::<f32>(ids.len() * self.dim());
        let mut rows = Vec::with_capacity(ids.len() * self.dim());
        for &id in ids {
            let slot = self.slot(id).ok_or_else(|| ArgumentError::Value(format!("ids: no item {id}")))?;
            rows.extend_from_slice(self.vector(slot));
        }
        Ok(rows)
    }

    /// As many entries as there were, as far as there are items: spread evenly over those that are none yet.
    fn refill_entries(&mut self) {
        let wanted = ENTRIES.min(self.live) - self.entries.len().min(self.live);
        if wanted == 0 {
            return;
        }
        let entries: HashSet<u32> = self.entries.iter().copied().collect();
        let others: Vec<u32> =
            (0..self.slots() as u32).filter(|&v| self.is_live(v as usize) && !entries.contains(&v)).collect();
        self.entries.extend((0..wanted).map(|t| others[t * others.len() / wanted]));
    }

    /// Free the memory of removed items; ids stay.
    pub fn compact(&mut self) {
        if self.live == self.slots() {
            return;
        }
        let kept: Vec<usize> = (0..self.slots()).filter(|&s| self.is_live(s)).collect();
        let mut moved = filled(NONE, self.slots());
        kept.iter().zip(0u32..).for_each(|(&slot, to)| moved[slot] = to);
        let (layout, d) = (self.coder.layout, self.dim());
        gather(&mut self.ids, 1, &kept);
        gather(&mut self.vectors, d, &kept);
        gather(&mut self.inverse, 1, &kept);
        gather(&mut self.codes, layout.code_bytes, &kept);
        gather(&mut self.signs, layout.sign_bytes, &kept);
        gather(&mut self.edges, self.degree, &kept);
        let there = |v: &mut u32| *v = moved.get(*v as usize).copied().unwrap_or(NONE);
        self.edges.to_mut().iter_mut().for_each(there);
        self.entries.iter_mut().for_each(there);
    }
}

/// Rows `kept` of a section alone.
fn gather<T: Plain>(section: &mut Section<T>, width: usize, kept: &[usize]) {
    if section.is_empty() {
        return;
    }
    let mut smaller = Section::new();
    smaller.grow(kept.len() * width);
    for (to, &slot) in smaller.to_mut().chunks_exact_mut(width).zip(kept) {
        to.copy_from_slice(&section[slot * width..][..width]);
    }
    *section = smaller;
}

/// Neighbours that stay, and those of the removed ones, of the removed ones among them, and so on.
fn behind(terrain: &Terrain, row: &[u32], removed: &[bool], enough: usize) -> Vec<u32> {
    let (mut found, mut gone) = (Vec::new(), Vec::new());
    let mut met: HashSet<u32> = HashSet::new();
    let mut look = |row: &[u32], found: &mut Vec<u32>, gone: &mut Vec<u32>| {
        for &vertex in row.iter().filter(|&&v| met.insert(v)) {
            if removed[vertex as usize] { gone.push(vertex) } else { found.push(vertex) }
        }
    };
    look(row, &mut found, &mut gone);
    let mut next = 0;
    // All of the first ring, then only as long as there are few.
    let ring = gone.len();
    while next < gone.len().min(MOST_BEHIND) && (next < ring || found.len() < enough) {
        look(neighbours(terrain.edges(gone[next])), &mut found, &mut gone);
        next += 1;
    }
    found
}
