//! The walk over the graph: from the best vertex whose edges were not followed yet to its neighbours, until there is none.
//!
//! Beam search as in Vamana [1], with three steps a neighbour, each of which leaves fewer: seen before? can its signs reach the pool? what
//! do its codes score? The memory of a step is fetched while the one before it runs.
//!
//! [1] Subramanya et al., DiskANN, NeurIPS 2019, algorithm 1.

use super::codes::Layout;
use super::pool::{Pool, Seen};
use super::query::Query;
use crate::simd::{Kernel, MOST_LANES, Simd, prefetch};

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

    /// Where the first vertex's scalars are, and how far it is to the next's.
    #[inline(always)]
    pub(super) fn scalars(&self) -> (*const u8, usize) {
        let (records, bytes) = match self.layout.sign_bytes {
            0 => (self.codes, self.layout.code_bytes),
            bytes => (self.signs, bytes),
        };
        (records.as_ptr().wrapping_add(self.layout.scalars_at()), bytes)
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
    /// Vertices that are looked at; beyond `count` any that the graph has.
    near: Vec<u32>,
    count: usize,
    /// Of each of them.
    sums: Vec<i32>,
    /// The vertex whose edges are followed.
    vertex: Option<u32>,
}

impl Lane {
    pub(super) fn new(layout: &Layout) -> Lane {
        Lane {
            query: Query::new(layout),
            pool: Pool::new(),
            seen: Seen::new(),
            near: Vec::new(),
            count: 0,
            sums: Vec::new(),
            vertex: None,
        }
    }
}

/// Code records that are multiplied at once.
pub(super) const TOGETHER: usize = 4;

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
            // Its memory is written, and any breadth may have been asked for.
            lane.pool.clear(breadth.min(terrain.vertices()).max(1));
            let most = terrain.degree.max(terrain.entries.len()).max(others.len());
            // A vector more than the last begins in.
            let room = most.next_multiple_of(MOST_LANES);
            lane.near.clear();
            lane.near.resize(room, 0);
            lane.sums.resize(room, 0);
            // SAFETY: `S` is the caller's promise.
            unsafe { lane.meet::<S>(&terrain, terrain.entries) };
        }
        let mut going = true;
        while going {
            going = false;
            // SAFETY: as above.
            unsafe {
                for lane in lanes.iter_mut() {
                    lane.sift::<S>(&terrain);
                }
                for lane in lanes.iter_mut() {
                    lane.rank::<S>(&terrain);
                    going |= lane.choose(&terrain, wanted);
                }
                for lane in lanes.iter_mut() {
                    lane.meet::<S>(&terrain, lane.vertex.map_or(&[], |vertex| terrain.edges(vertex)));
                }
            }
        }
        for lane in lanes.iter_mut().filter(|_| !others.is_empty()) {
            // SAFETY: as above.
            unsafe {
                lane.meet::<S>(&terrain, others);
                lane.sift::<S>(&terrain);
                lane.rank::<S>(&terrain);
            }
        }
    }
}

impl Lane {
    /// Those of `vertices`, which differ, that were not met before are the lane's next.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    unsafe fn meet<S: Simd>(&mut self, terrain: &Terrain, vertices: &[u32]) {
        // A row ends with NONE; what a damaged file may hold for a vertex is taken for the last.
        let last = terrain.vertices().saturating_sub(1) as u32;
        for (near, vertex) in self.near.iter_mut().zip(vertices) {
            *near = (*vertex).min(last);
        }
        let count = vertices.iter().rposition(|&vertex| vertex != NONE).map_or(0, |at| at + 1);
        // SAFETY: the caller's promise; `near` has room for whole vectors.
        self.count = unsafe { self.seen.first::<S>(&mut self.near, count) };
        let (records, bytes) = match terrain.layout.sign_bytes {
            0 => (terrain.codes, terrain.layout.code_bytes),
            bytes => (terrain.signs, bytes),
        };
        for &vertex in &self.near[..self.count] {
            prefetch(records.as_ptr().wrapping_add(vertex as usize * bytes), bytes);
        }
    }

    /// Of them, those that may reach the pool as far as their signs tell.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    unsafe fn sift<S: Simd>(&mut self, terrain: &Terrain) {
        if terrain.layout.sign_bytes == 0 {
            return;
        }
        let (count, mut hopeful) = (self.count, 0);
        let (scalars, stride) = terrain.scalars();
        // SAFETY: `S` is the caller's promise; vertices that are near have records, and they and sums have room for whole vectors.
        unsafe {
            self.query.weigh::<S>(terrain.signs.as_ptr(), &self.near[..count], &mut self.sums);
            let floor = S::splat(self.pool.floor());
            for from in (0..count).step_by(S::W) {
                let near = self.near.as_mut_ptr();
                let items = S::load_columns(scalars, stride, near.add(from));
                let ceilings = self.query.ceilings::<S>(S::load(self.sums.as_ptr().add(from).cast()), items);
                let mask = !S::gt(floor, ceilings) & lanes(S::W.min(count - from));
                S::pack(near.add(from), mask, near.add(hopeful));
                hopeful += mask.count_ones() as usize;
            }
        }
        self.count = hopeful;
        for &vertex in &self.near[..self.count] {
            prefetch(terrain.code(vertex).as_ptr(), terrain.layout.code_bytes);
        }
    }

    /// Those that are left come into the pool, as far as their codes tell.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    unsafe fn rank<S: Simd>(&mut self, terrain: &Terrain) {
        let count = self.count;
        let (scalars, stride) = terrain.scalars();
        let (near, sums) = (&self.near[..], &mut self.sums[..]);
        for (near, sums) in
            near.chunks_exact(TOGETHER).zip(sums.chunks_exact_mut(TOGETHER)).take(count.div_ceil(TOGETHER))
        {
            let mut codes = [std::ptr::null(); TOGETHER];
            for (code, vertex) in codes.iter_mut().zip(near) {
                *code = terrain.code(*vertex).as_ptr();
            }
            // SAFETY: records of this layout; `S` is the caller's promise.
            sums.copy_from_slice(&unsafe { self.query.products::<S, TOGETHER>(codes) });
        }
        for from in (0..count).step_by(S::W) {
            let mut scores = [0f32; MOST_LANES];
            // SAFETY: as in `sift`; there is room for a vector.
            let mut mask = unsafe {
                let items = S::load_columns(scalars, stride, near[from..].as_ptr());
                let of = self.query.scores::<S>(S::load(sums.as_ptr().add(from).cast()), items);
                S::store(scores.as_mut_ptr(), of);
                !S::gt(S::splat(self.pool.floor()), of) & lanes(S::W.min(count - from))
            };
            while mask != 0 {
                let t = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                // SAFETY: the caller's promise.
                unsafe { self.pool.insert::<S>(scores[t], near[from + t]) };
            }
        }
    }

    /// The vertex whose edges are followed next, if there is one. Of the best `wanted` the vectors are fetched as well: who is among them in
    /// the end was when it was followed.
    #[inline(always)]
    fn choose(&mut self, terrain: &Terrain, wanted: usize) -> bool {
        let next = self.pool.follow();
        if let Some((vertex, rank)) = next {
            prefetch(terrain.edges(vertex).as_ptr(), 4 * terrain.degree);
            if rank < wanted {
                prefetch(terrain.vector(vertex).as_ptr(), 4 * terrain.layout.d);
            }
        }
        self.vertex = next.map(|(vertex, _)| vertex);
        next.is_some()
    }
}

/// As many of the lowest bits.
fn lanes(count: usize) -> u32 {
    (1 << count) - 1
}
