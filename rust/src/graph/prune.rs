//! Which of a vertex's candidates become its neighbours.
//!
//! From near to far, a candidate is left out where a neighbour that was taken before is nearer to it by the factor α (of squared
//! distances): a walk comes to it through that neighbour [1, algorithm 2]. The nearest of those left out then fill the row. Distances are those of the codes, so that one to itself is 0.
//!
//! [1] Subramanya et al., DiskANN, NeurIPS 2019.

use super::Graph;
use super::codes::Scalars;
use super::pool::{falling, of_falling};
use super::walk::{TOGETHER, Terrain};
use crate::buffer::Shared;
use crate::simd::{Isa, Kernel, Simd, prefetch};
use crate::stop::filled;
use crate::team;

/// α, of squared distances.
const ALPHA: f32 = 1.1;

/// Workspace of a thread.
#[derive(Default)]
pub(super) struct Pruner {
    /// Codes of the neighbours taken, signed.
    taken: Vec<i8>,
    own: Vec<i8>,
    /// Distance, vertex.
    ranked: Vec<u64>,
    kept: Vec<u32>,
    spare: Vec<u32>,
}

/// A vertex without its codes.
#[derive(Clone, Copy, Default)]
pub(super) struct Point {
    unit: f32,
    lift: f32,
    /// Squared length, of the codes and a.
    square: f32,
    /// What products with it are off by where the other's codes are unsigned.
    shift: i32,
}

impl Point {
    /// Squared distance, from the product of the codes.
    #[inline(always)]
    fn distance(&self, to: &Point, product: i32) -> f32 {
        self.square + to.square - 2.0 * (product as f32 * (self.unit * to.unit) + self.lift * to.lift)
    }
}

/// Those of vertices from `first`.
struct Points<'a> {
    terrain: Terrain<'a>,
    first: usize,
    points: &'a mut [Point],
}

impl Kernel for Points<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let Points { terrain, first, points } = self;
        let mut codes = vec![0; terrain.layout.room()];
        let (records, stride) = terrain.scalars();
        for (vertex, point) in (first..).zip(points) {
            let code = terrain.code(vertex as u32);
            let shift = terrain.layout.signed(code, &mut codes);
            // SAFETY: `S` is the caller's promise; records of this layout.
            let (scalars, [product]) = unsafe {
                let scalars = records.add(vertex * stride).cast::<Scalars>().read_unaligned();
                (scalars, terrain.layout.products::<S, 1>([code.as_ptr()], [codes.as_ptr()], [shift]))
            };
            let (unit, lift) = (scalars.unit, scalars.lift);
            *point = Point { unit, lift, square: product as f32 * (unit * unit) + lift * lift, shift };
        }
    }
}

impl Graph {
    /// All vertices.
    pub(super) fn points(&self, threads: usize, isa: Isa) -> Vec<Point> {
        let n = self.slots();
        let mut points = filled(Point::default(), n);
        let out = Shared::of(&mut points);
        team::run(threads, |team| {
            team.for_each(n.div_ceil(CHUNK), |u| {
                let (first, end) = (u * CHUNK, n.min((u + 1) * CHUNK));
                // SAFETY: every vertex is written once.
                let points = unsafe { std::slice::from_raw_parts_mut(out.at(first), end - first) };
                isa.run(Points { terrain: self.terrain(), first, points });
            });
        });
        points
    }
}

/// Vertices of a unit of work.
pub(super) const CHUNK: usize = 64;

/// Leave the neighbours of `vertex`, best first, at most `degree`, from `candidates` (any order, `vertex` itself and doubles allowed).
pub(super) struct Prune<'a> {
    pub(super) terrain: Terrain<'a>,
    /// Of all vertices.
    pub(super) points: &'a [Point],
    pub(super) vertex: u32,
    pub(super) candidates: &'a [u32],
    pub(super) pruner: &'a mut Pruner,
}

impl<'a> Kernel for Prune<'a> {
    type Out = &'a [u32];
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> &'a [u32] {
        let Prune { terrain, points, vertex, candidates, pruner } = self;
        let (layout, bytes, room) = (&terrain.layout, terrain.layout.code_bytes, terrain.layout.room());
        let Pruner { taken, own, ranked, kept, spare } = pruner;
        own.resize(room, 0);
        taken.resize(terrain.degree.next_multiple_of(TOGETHER) * room, 0);
        ranked.clear();
        kept.clear();
        spare.clear();
        layout.signed(terrain.code(vertex), own);
        let center = points[vertex as usize];
        for (t, four) in candidates.chunks(TOGETHER).enumerate() {
            for &next in candidates.iter().skip((t + 1) * TOGETHER).take(TOGETHER) {
                prefetch(terrain.code(next).as_ptr(), bytes);
                prefetch(&points[next as usize], size_of::<Point>());
            }
            let mut codes = [terrain.code(four[0]).as_ptr(); TOGETHER];
            for (code, &candidate) in codes.iter_mut().zip(four) {
                *code = terrain.code(candidate).as_ptr();
            }
            // SAFETY: `S` is the caller's promise; slices have the layout's lengths.
            let products =
                unsafe { layout.products::<S, TOGETHER>(codes, [own.as_ptr(); TOGETHER], [center.shift; TOGETHER]) };
            for (&candidate, product) in four.iter().zip(products).filter(|(c, _)| **c != vertex) {
                let distance = points[candidate as usize].distance(&center, product);
                ranked.push(u64::from(!falling(distance)) << 32 | u64::from(candidate));
            }
        }
        ranked.sort_unstable();
        ranked.dedup();
        // The points of those kept; beyond them, and to a multiple, any.
        let mut chosen = [center; MAX_DEGREE.next_multiple_of(TOGETHER)];
        for &mut key in ranked {
            let (distance, candidate) = (of_falling(!((key >> 32) as u32)), key as u32);
            let (point, code) = (points[candidate as usize], terrain.code(candidate).as_ptr());
            let mut hidden = false;
            for from in (0..kept.len()).step_by(TOGETHER) {
                let (mut codes, mut shifts) = ([taken[from * room..].as_ptr(); TOGETHER], [0; TOGETHER]);
                for (t, (codes, shift)) in codes.iter_mut().zip(&mut shifts).enumerate() {
                    (*codes, *shift) = (taken[(from + t) * room..].as_ptr(), chosen[from + t].shift);
                }
                // SAFETY: as above.
                let products = unsafe { layout.products::<S, TOGETHER>([code; TOGETHER], codes, shifts) };
                for t in 0..TOGETHER.min(kept.len() - from) {
                    hidden |= ALPHA * point.distance(&chosen[from + t], products[t]) <= distance;
                }
                if hidden {
                    break;
                }
            }
            if hidden {
                spare.push(candidate);
                continue;
            }
            layout.signed(terrain.code(candidate), &mut taken[kept.len() * room..][..room]);
            chosen[kept.len()] = point;
            kept.push(candidate);
            if kept.len() == terrain.degree {
                break;
            }
        }
        // What is left of the row shortens walks further: an edge costs a glance at signs.
        kept.extend(spare.iter().take(terrain.degree - kept.len()));
        kept
    }
}

/// What a degree stays below.
pub(super) const MAX_DEGREE: usize = 128;
