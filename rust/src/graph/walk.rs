//! The walk over the graph: from the best vertex whose edges were not followed yet to its neighbours, until there is none.
//!
//! Beam search as in Vamana [1], with three steps a neighbour, each of which leaves fewer: seen before? can its signs reach the pool? what
//! do its codes score? The memory of a step is fetched while the one before it runs.
//!
//! [1] Subramanya et al., DiskANN, NeurIPS 2019, algorithm 1.

use super::codes::Layout;
use super::pool::{Pool, Seen, vertex_of};
use super::query::Query;
use crate::simd::{Kernel, Simd, prefetch};

/// No edge.
pub(super) const NONE: u32 = u32::MAX;

/// What a walk reads.
#[derive(Clone, Copy)]
pub(super) struct Terrain<'a> {
    pub(super) layout: Layout,
    pub(super) codes: &'a [u8],
    pub(super) signs: &'a [u8],
    /// `degree` a vertex, [`NONE`] after the last.
    pub(super) edges: &'a [u32],
    pub(super) degree: usize,
    pub(super) entries: &'a [u32],
    /// d a vertex: not read, but fetched for who reads them next.
    pub(super) vectors: &'a [f32],
}

impl<'a> Terrain<'a> {
    pub(super) fn vertices(&self) -> usize {
        self.edges.len() / self.degree
    }

    #[inline(always)]
    pub(super) fn code(&self, vertex: u32) -> &'a [u8] {
        &self.codes[vertex as usize * self.layout.code_bytes..][..self.layout.code_bytes]
    }

    /// The record with the vertex's scalars.
    #[inline(always)]
    pub(super) fn record(&self, vertex: u32) -> &'a [u8] {
        match self.layout.sign_bytes {
            0 => self.code(vertex),
            bytes => &self.signs[vertex as usize * bytes..][..bytes],
        }
    }

    #[inline(always)]
    fn vector(&self, vertex: u32) -> &'a [f32] {
        &self.vectors[vertex as usize * self.layout.d..][..self.layout.d]
    }

    #[inline(always)]
    pub(super) fn edges(&self, vertex: u32) -> &'a [u32] {
        &self.edges[vertex as usize * self.degree..][..self.degree]
    }
}

/// A query with its workspace, kept from walk to walk.
pub(super) struct Lane {
    pub(super) query: Query,
    pub(super) pool: Pool,
    seen: Seen,
    fresh: Vec<u32>,
    /// Of each of them.
    sums: Vec<i32>,
    /// Vertices at the front of `fresh` that are still hoped for.
    count: usize,
    /// The vertex whose edges are followed.
    vertex: Option<u32>,
}

impl Lane {
    pub(super) fn new(layout: &Layout) -> Lane {
        let query = Query::new(layout);
        Lane {
            query,
            pool: Pool::new(),
            seen: Seen::new(),
            fresh: Vec::new(),
            sums: Vec::new(),
            count: 0,
            vertex: None,
        }
    }
}

/// Vertices that are judged at once: the compiler makes vectors of them.
const GROUP: usize = 8;

/// Lanes of a walk.
pub(super) const LANES: usize = 4;

/// For every lane's query walk until the `breadth` best vertices met were all followed, then look at `others` as well; the best are left
/// in its pool.
///
/// Lanes take turns at every step, so that one computes while the memory of the others is on its way; what comes out is that of walks
/// one after another.
pub(super) struct Walk<'a> {
    pub(super) terrain: Terrain<'a>,
    pub(super) breadth: usize,
    pub(super) others: &'a [u32],
    /// Of how many of the best the vectors are read afterwards.
    pub(super) wanted: usize,
    pub(super) lanes: &'a mut [Lane],
}

impl Kernel for Walk<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let Walk { terrain, breadth, others, wanted, lanes } = self;
        for lane in lanes.iter_mut() {
            lane.seen.clear(terrain.vertices());
            lane.pool.clear(breadth.max(1));
            let most = terrain.degree.max(terrain.entries.len()).max(others.len());
            lane.fresh.resize(most, 0);
            lane.sums.resize(most.next_multiple_of(GROUP), 0);
            lane.meet(&terrain, terrain.entries);
        }
        let mut going = true;
        while going {
            // SAFETY: `S` is the caller's promise.
            unsafe { take_in::<S>(&terrain, lanes) };
            going = false;
            for lane in lanes.iter_mut() {
                let before = lane.vertex;
                lane.vertex = lane.pool.follow();
                if before.is_some() && lane.vertex.is_none() {
                    for &key in lane.pool.keys().iter().take(wanted) {
                        prefetch(terrain.vector(vertex_of(key)).as_ptr(), 4 * terrain.layout.d);
                    }
                }
                if let Some(vertex) = lane.vertex {
                    prefetch(terrain.edges(vertex).as_ptr(), 4 * terrain.degree);
                    going = true;
                }
            }
            for lane in lanes.iter_mut() {
                lane.meet(&terrain, lane.vertex.map_or(&[], |vertex| terrain.edges(vertex)));
            }
        }
        if !others.is_empty() {
            lanes.iter_mut().for_each(|lane| lane.meet(&terrain, others));
            // SAFETY: as above.
            unsafe { take_in::<S>(&terrain, lanes) };
        }
    }
}

impl Lane {
    /// Those of `vertices` that were not met before are the lane's next.
    #[inline(always)]
    fn meet(&mut self, terrain: &Terrain, vertices: &[u32]) {
        // NONE, and what a damaged file may hold for a vertex, is never new.
        self.count = self.seen.first(vertices, &mut self.fresh);
        for &vertex in &self.fresh[..self.count] {
            let record = terrain.record(vertex);
            prefetch(record.as_ptr(), record.len());
        }
    }

    /// Of them, those that may reach the pool as far as their signs tell.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    unsafe fn sift<S: Simd>(&mut self, terrain: &Terrain) {
        let (layout, floor) = (&terrain.layout, self.pool.floor());
        // SAFETY: `S` is the caller's promise; what is fresh has records.
        unsafe { self.query.weigh::<S>(terrain.signs.as_ptr(), &self.fresh[..self.count], &mut self.sums) };
        let mut hopeful = 0;
        for from in (0..self.count).step_by(GROUP) {
            let group = self.group(from);
            // SAFETY: records of this layout.
            let items = group.map(|v| unsafe { layout.scalars(terrain.record(v).as_ptr()) });
            let ceilings: [f32; GROUP] = std::array::from_fn(|t| self.query.ceiling(self.sums[from + t], items[t]));
            for t in 0..GROUP.min(self.count - from) {
                self.fresh[hopeful] = group[t];
                hopeful += usize::from(ceilings[t] >= floor);
            }
        }
        self.count = hopeful;
        for &vertex in &self.fresh[..hopeful] {
            prefetch(terrain.code(vertex).as_ptr(), layout.code_bytes);
        }
    }

    /// Those that are left come into the pool, as far as their codes tell.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    unsafe fn rank<S: Simd>(&mut self, terrain: &Terrain) {
        let layout = &terrain.layout;
        for (sum, &vertex) in self.sums.iter_mut().zip(&self.fresh[..self.count]) {
            // SAFETY: a record of this layout; `S` is the caller's promise.
            *sum = unsafe { self.query.product::<S>(terrain.code(vertex).as_ptr()) };
        }
        for from in (0..self.count).step_by(GROUP) {
            let group = self.group(from);
            // SAFETY: records of this layout.
            let items = group.map(|v| unsafe { layout.scalars(terrain.record(v).as_ptr()) });
            let scores: [f32; GROUP] = std::array::from_fn(|t| self.query.score(self.sums[from + t], items[t]));
            for t in 0..GROUP.min(self.count - from) {
                if scores[t] >= self.pool.floor() {
                    self.pool.insert(scores[t], group[t]);
                }
            }
        }
    }

    /// The next of what is fresh, the last of it again and again where there are no more.
    #[inline(always)]
    fn group(&self, from: usize) -> [u32; GROUP] {
        std::array::from_fn(|t| self.fresh[self.count.min(from + t + 1) - 1])
    }
}

/// What the lanes met comes into their pools, as far as it belongs there.
///
/// # Safety
/// `S` is there.
#[inline(always)]
unsafe fn take_in<S: Simd>(terrain: &Terrain, lanes: &mut [Lane]) {
    let layout = &terrain.layout;
    if layout.sign_bytes > 0 {
        for lane in lanes.iter_mut() {
            // SAFETY: the caller's promise.
            unsafe { lane.sift::<S>(terrain) };
        }
    }
    for lane in lanes.iter_mut() {
        // SAFETY: the caller's promise.
        unsafe { lane.rank::<S>(terrain) };
    }
}
