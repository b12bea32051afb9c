//! Insertion: new vertices in batches that do not depend on the number of threads, each batch into the graph that the one before left.
//!
//! A batch walks the frozen graph, so that its vertices can be placed in parallel; edges back are then merged in the order of vertices [1, 2].
//! The graph is thus a function of the vectors, the seed and the order of calls.
//!
//! [1] Manohar et al., ParlayANN, PPoPP 2024, §3 (prefix-doubling batches).  [2] Subramanya et al., DiskANN, NeurIPS 2019, algorithm 3.

use super::codes::Coder;
use super::pool::vertex_of;
use super::prune::{CHUNK, Point, Prune, Pruner};
use super::rotate::next_random;
use super::walk::{LANES, Lane, NONE, Terrain, Walk};
use super::{ENTRIES, Graph};
use crate::buffer::Shared;
use crate::simd::Isa;
use crate::stop::filled;
use crate::team;

/// Vertices of the first batch, which meet each other one by one.
const FIRST: usize = 512;
/// A later batch: this share of what is there, no more than the share of what will be, or than `LEAST`.
const GROWTH: usize = 4;
const SHARE: usize = 50;
const LEAST: usize = 256;
/// Rows while vertices come in, in halves of the degree: they are thinned out only when this is full.
const SLACK: usize = 3;
/// Repetitions of the search for vertices that cannot be reached.
const ROUNDS: usize = 4;

/// A graph that grows: rows with room beyond the degree.
struct Growing<'a> {
    graph: &'a Graph,
    points: Vec<Point>,
    rows: Vec<u32>,
    width: usize,
    threads: usize,
    isa: Isa,
}

/// A thread's workspace.
struct Hand {
    lanes: Vec<Lane>,
    pruner: Pruner,
}

impl Hand {
    fn new(coder: &Coder) -> Hand {
        Hand { lanes: (0..LANES).map(|_| Lane::new(&coder.layout)).collect(), pruner: Pruner::default() }
    }
}

impl Graph {
    /// Bring vertices `from..` into the graph; their vectors and codes are there.
    pub(super) fn insert(&mut self, from: usize, threads: usize, isa: Isa) {
        let n = self.slots();
        let mut order: Vec<u32> = (from as u32..n as u32).collect();
        let mut state = self.seed ^ from as u64;
        for i in (1..order.len()).rev() {
            order.swap(i, (next_random(&mut state) % (i as u64 + 1)) as usize);
        }
        let placed = self.live - order.len();
        if self.entries.len() < ENTRIES {
            let wanted = ENTRIES - self.entries.len();
            self.entries.extend_from_slice(&order[..wanted.min(order.len())]);
        }
        let width = self.degree * SLACK / 2;
        let mut rows = filled(NONE, n * width);
        for (row, old) in rows.chunks_exact_mut(width).zip(self.edges.chunks_exact(self.degree)) {
            row[..self.degree].copy_from_slice(old);
        }
        let mut growing = Growing { graph: self, points: self.points(threads, isa), rows, width, threads, isa };
        growing.grow(placed, &order);
        let edges = growing.thinned();
        self.edges.grow(edges.len());
        self.edges.to_mut().copy_from_slice(&edges);
        self.connect(isa);
    }
}

impl Growing<'_> {
    fn grow(&mut self, mut placed: usize, order: &[u32]) {
        let mut at = 0;
        if placed == 0 {
            at = order.len().min(FIRST);
            let first = &order[..at];
            self.place(first, first, &[]);
            placed = at;
        }
        let total = placed + order.len() - at;
        let most = (total / SHARE).max(LEAST);
        while at < order.len() {
            let size = (placed / GROWTH).clamp(1, most).min(order.len() - at);
            let batch = &order[at..at + size];
            let graph = self.graph;
            self.place(batch, &graph.entries, batch);
            (at, placed) = (at + size, placed + size);
        }
    }

    fn terrain<'b>(&'b self, entries: &'b [u32]) -> Terrain<'b> {
        Terrain { edges: &self.rows, degree: self.width, entries, ..self.graph.terrain() }
    }

    /// Edges of a batch, and back. `mates` are looked at besides what walks meet.
    fn place(&mut self, batch: &[u32], entries: &[u32], mates: &[u32]) {
        let graph = self.graph;
        let mut found = filled(Vec::new(), batch.len());
        let out = Shared::of(&mut found);
        let terrain = self.terrain(entries);
        team::run(self.threads, |team| {
            let mut hand = Hand::new(&graph.coder);
            team.for_each(batch.len().div_ceil(LANES), |u| {
                let first = u * LANES;
                let vertices = &batch[first..batch.len().min(first + LANES)];
                near(graph, terrain, vertices, mates, &mut hand, self.isa);
                let Hand { lanes, pruner } = &mut hand;
                for (t, (&vertex, lane)) in vertices.iter().zip(lanes.iter()).enumerate() {
                    let met: Vec<u32> = lane.pool.keys().iter().map(|&k| vertex_of(k)).collect();
                    let terrain = Terrain { degree: graph.degree, ..terrain };
                    let row = self.isa.run(self.prune(terrain, vertex, &met, pruner)).to_vec();
                    // SAFETY: every vertex writes its own.
                    unsafe { *out.at(first + t) = row };
                }
            });
        });
        let mut back: Vec<(u32, u32)> =
            batch.iter().zip(&found).flat_map(|(&v, row)| row.iter().map(move |&to| (to, v))).collect();
        back.sort_unstable();
        for (&vertex, row) in batch.iter().zip(&found) {
            self.row_mut(vertex)[..row.len()].copy_from_slice(row);
        }
        let groups: Vec<&[(u32, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let mut merged = filled(Vec::new(), groups.len());
        let out = Shared::of(&mut merged);
        let terrain = self.terrain(entries);
        team::run(self.threads, |team| {
            let mut hand = Hand::new(&graph.coder);
            team.for_each(groups.len(), |u| {
                let row = self.with_edges_back(terrain, groups[u], &mut hand);
                // SAFETY: as above.
                unsafe { *out.at(u) = row };
            });
        });
        let targets: Vec<u32> = groups.iter().map(|g| g[0].0).collect();
        for (vertex, row) in targets.into_iter().zip(merged) {
            let to = self.row_mut(vertex);
            to.fill(NONE);
            to[..row.len()].copy_from_slice(&row);
        }
    }

    /// The row of a vertex that others have taken as a neighbour: pairs (vertex, other).
    fn with_edges_back(&self, terrain: Terrain, pairs: &[(u32, u32)], hand: &mut Hand) -> Vec<u32> {
        let vertex = pairs[0].0;
        let mut row = neighbours(terrain.edges(vertex)).to_vec();
        for &(_, other) in pairs {
            if !row.contains(&other) {
                row.push(other);
            }
        }
        if row.len() <= terrain.degree {
            return row;
        }
        let terrain = Terrain { degree: self.graph.degree, ..terrain };
        self.isa.run(self.prune(terrain, vertex, &row, &mut hand.pruner)).to_vec()
    }

    fn prune<'b>(
        &'b self,
        terrain: Terrain<'b>,
        vertex: u32,
        candidates: &'b [u32],
        pruner: &'b mut Pruner,
    ) -> Prune<'b> {
        Prune { terrain, points: &self.points, vertex, candidates, pruner }
    }

    fn row_mut(&mut self, vertex: u32) -> &mut [u32] {
        &mut self.rows[vertex as usize * self.width..][..self.width]
    }

    /// Rows of the degree.
    fn thinned(&self) -> Vec<u32> {
        let degree = self.graph.degree;
        let n = self.rows.len() / self.width;
        let mut edges = filled(NONE, n * degree);
        let out = Shared::of(&mut edges);
        let terrain = self.terrain(&[]);
        team::run(self.threads, |team| {
            let mut pruner = Pruner::default();
            team.for_each(n.div_ceil(CHUNK), |u| {
                for vertex in u * CHUNK..n.min((u + 1) * CHUNK) {
                    let row = neighbours(terrain.edges(vertex as u32));
                    let kept = if row.len() > degree {
                        let terrain = Terrain { degree, ..terrain };
                        self.isa.run(self.prune(terrain, vertex as u32, row, &mut pruner))
                    } else {
                        row
                    };
                    // SAFETY: rows are written once each, and are as long as the degree.
                    let to = unsafe { std::slice::from_raw_parts_mut(out.at(vertex * degree), degree) };
                    to[..kept.len()].copy_from_slice(kept);
                }
            });
        });
        edges
    }
}

/// A row up to its end.
pub(super) fn neighbours(row: &[u32]) -> &[u32] {
    &row[..row.iter().position(|&v| v == NONE).unwrap_or(row.len())]
}

/// Leave what is near each of the vertices in the hand's lanes.
fn near(graph: &Graph, terrain: Terrain, vertices: &[u32], others: &[u32], hand: &mut Hand, isa: Isa) {
    for (lane, &vertex) in hand.lanes.iter_mut().zip(vertices) {
        graph.ask(graph.vector(vertex as usize), true, &mut lane.query, isa);
    }
    isa.run(Walk { terrain, breadth: graph.breadth, others, wanted: 0, lanes: &mut hand.lanes[..vertices.len()] });
}

impl Graph {
    /// Give every vertex an edge from one that a walk can reach.
    pub(super) fn connect(&mut self, isa: Isa) {
        for _ in 0..ROUNDS {
            let lost = self.unreached();
            if lost.is_empty() {
                return;
            }
            let mut hand = Hand::new(&self.coder);
            for vertex in lost {
                let terrain = self.terrain();
                near(self, terrain, &[vertex], &[], &mut hand, isa);
                let met: Vec<u32> = hand.lanes[0].pool.keys().iter().map(|&k| vertex_of(k)).collect();
                if met.contains(&vertex) {
                    continue; // an edge of this round leads to it
                }
                let Some(&nearest) = met.first() else { continue };
                let room = met.iter().find(|&&v| terrain.edges(v).last() == Some(&NONE));
                let from = *room.unwrap_or(&nearest);
                let degree = self.degree;
                let row = &mut self.edges.to_mut()[from as usize * degree..][..degree];
                let end = row.iter().position(|&v| v == NONE).unwrap_or(degree - 1);
                row[end] = vertex;
            }
        }
    }

    /// Live vertices that no path from the entries leads to, in order.
    fn unreached(&self) -> Vec<u32> {
        let n = self.slots();
        let mut reached = filled(false, n);
        let mut queue: Vec<u32> = self.entries.to_vec();
        queue.iter().for_each(|&v| reached[v as usize] = true);
        while let Some(vertex) = queue.pop() {
            for &to in neighbours(self.terrain().edges(vertex)) {
                if !std::mem::replace(&mut reached[to as usize], true) {
                    queue.push(to);
                }
            }
        }
        (0..n as u32).filter(|&v| !reached[v as usize] && self.is_live(v as usize)).collect()
    }
}
