//! Searches among some of the items, and searches that compare with all.

use super::Graph;
use super::pool::{score_of, vertex_of};
use super::walk::{Lane, Walk};
use crate::simd::Isa;

/// A comparison in f64 costs a seventh of what a walk spends a vertex of its breadth.
const SCAN: usize = 7;

/// Which items may be returned.
pub(super) struct Passing<'a> {
    /// By id.
    mask: Option<&'a [u8]>,
    /// Live items that pass.
    count: usize,
    /// Their slots, where all are compared with.
    scanned: Option<Vec<u32>>,
}

impl<'a> Passing<'a> {
    /// `exact`: compare with all that pass, as otherwise only where a walk would cost more.
    pub(super) fn new(graph: &Graph, mask: Option<&'a [u8]>, breadth: usize, exact: bool) -> Passing<'a> {
        let mut passing = Passing { mask, count: 0, scanned: None };
        passing.count = match mask {
            None => graph.live,
            Some(_) => (0..graph.slots()).filter(|&s| passing.passes(graph, s)).count(),
        };
        // A walk for a share of the items has to be as much wider.
        let (n, p) = (graph.live, passing.count);
        if exact || p.saturating_mul(p) <= SCAN.saturating_mul(n).saturating_mul(breadth) {
            passing.scanned = Some(passing.slots(graph));
        }
        passing
    }

    fn passes(&self, graph: &Graph, slot: usize) -> bool {
        let id = graph.ids[slot];
        id >= 0 && self.mask.is_none_or(|mask| mask.get(id as usize).is_some_and(|&b| b != 0))
    }

    fn slots(&self, graph: &Graph) -> Vec<u32> {
        (0..graph.slots() as u32).filter(|&s| self.passes(graph, s as usize)).collect()
    }

    /// Walk for the lanes' queries, unless all that pass are compared with.
    pub(super) fn walk(&self, graph: &Graph, k: usize, breadth: usize, lanes: &mut [Lane], isa: Isa) {
        if self.scanned.is_none() {
            let breadth = (breadth * graph.live).div_ceil(self.count);
            // What is worth an exact score, by and large.
            let wanted = k.saturating_add(k / 2);
            isa.run(Walk { terrain: graph.terrain(), breadth, others: &[], wanted, lanes });
        }
    }

    /// Slots that are worth an exact score, after the walk.
    pub(super) fn candidates(&self, graph: &Graph, k: usize, lane: &Lane, slots: &mut Vec<u32>) {
        slots.clear();
        if let Some(all) = &self.scanned {
            slots.extend_from_slice(all);
            return;
        }
        let margin = graph.margin(&lane.query);
        let mut least = f32::NEG_INFINITY;
        for &key in lane.pool.keys().iter().filter(|&&key| self.passes(graph, vertex_of(key) as usize)) {
            if score_of(key) < least {
                break;
            }
            slots.push(vertex_of(key));
            if slots.len() == k {
                least = score_of(key) - margin;
            }
        }
        if slots.len() < k.min(self.count) {
            // What passes lies far from the query: the walk ended before it.
            *slots = self.slots(graph);
        }
    }
}
