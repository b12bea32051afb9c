//! Which of a vertex's candidates become its neighbours.
//!
//! From near to far, a candidate is left out where a neighbour that was taken before is nearer to it by the factor α (of squared
//! distances): a walk comes to it through that neighbour [1, algorithm 2]. The nearest of those left out then fill the row. Distances are those of the codes, so that one to itself is 0.
//!
//! [1] Subramanya et al., DiskANN, NeurIPS 2019.

use super::codes::Scalars;
use super::walk::Terrain;
use crate::simd::{Kernel, Simd, prefetch};

/// α, of squared distances.
const ALPHA: f32 = 1.1;

/// Workspace of a thread.
#[derive(Default)]
pub(super) struct Pruner {
    /// Codes of the neighbours taken, signed.
    taken: Vec<i8>,
    own: Vec<i8>,
    candidates: Vec<Candidate>,
    kept: Vec<u32>,
    spare: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Candidate {
    distance: f32,
    vertex: u32,
    point: Point,
}

/// A vertex without its codes.
#[derive(Clone, Copy)]
struct Point {
    unit: f32,
    lift: f32,
    /// Squared length, of the codes and a.
    square: f32,
    /// What products with it are off by where the other's codes are unsigned.
    shift: i32,
}

/// Leave the neighbours of `vertex`, best first, at most `degree`, from `candidates` (any order, `vertex` itself and doubles allowed).
pub(super) struct Prune<'a> {
    pub(super) terrain: Terrain<'a>,
    pub(super) vertex: u32,
    pub(super) candidates: &'a [u32],
    pub(super) pruner: &'a mut Pruner,
}

/// # Safety
/// `S` is there.
#[inline(always)]
unsafe fn point<S: Simd>(terrain: &Terrain, vertex: u32, codes: &mut [i8]) -> Point {
    let shift = terrain.layout.signed(terrain.code(vertex), codes);
    let (records, stride) = terrain.scalars();
    // SAFETY: records of this layout.
    let (scalars, square) = unsafe {
        let sum = terrain.layout.products::<S, 1>([terrain.code(vertex).as_ptr()], codes.as_ptr(), shift);
        (records.add(vertex as usize * stride).cast::<Scalars>().read_unaligned(), sum[0] as f32)
    };
    let (unit, lift) = (scalars.unit, scalars.lift);
    Point { unit, lift, square: square * (unit * unit) + lift * lift, shift }
}

/// Squared distance of `vertex` to the point whose signed codes are given.
///
/// # Safety
/// `S` is there.
#[inline(always)]
unsafe fn distance<S: Simd>(terrain: &Terrain, vertex: u32, point: &Point, to: &Point, to_codes: &[i8]) -> f32 {
    // SAFETY: records of this layout.
    let [sum] =
        unsafe { terrain.layout.products::<S, 1>([terrain.code(vertex).as_ptr()], to_codes.as_ptr(), to.shift) };
    point.square + to.square - 2.0 * (sum as f32 * (point.unit * to.unit) + point.lift * to.lift)
}

impl<'a> Kernel for Prune<'a> {
    type Out = &'a [u32];
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> &'a [u32] {
        let Prune { terrain, vertex, candidates, pruner } = self;
        let (bytes, room) = (terrain.layout.code_bytes, terrain.layout.room());
        let Pruner { taken, own, candidates: ranked, kept, spare } = pruner;
        own.resize(room, 0);
        taken.resize(terrain.degree * room, 0);
        ranked.clear();
        kept.clear();
        spare.clear();
        // SAFETY: `S` is the caller's promise; slices have the layout's lengths.
        let center = unsafe { point::<S>(&terrain, vertex, own) };
        for (t, &candidate) in candidates.iter().enumerate() {
            if let Some(&next) = candidates.get(t + 1) {
                prefetch(terrain.code(next).as_ptr(), bytes);
                prefetch(terrain.record(next).as_ptr(), terrain.layout.sign_bytes);
            }
            if candidate != vertex {
                // SAFETY: as above.
                unsafe {
                    let point = point::<S>(&terrain, candidate, &mut taken[..room]);
                    let distance = distance::<S>(&terrain, candidate, &point, &center, own);
                    ranked.push(Candidate { distance, vertex: candidate, point });
                }
            }
        }
        ranked.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.vertex.cmp(&b.vertex)));
        ranked.dedup_by_key(|c| c.vertex);
        let mut points: [Option<Point>; MAX_DEGREE] = [None; MAX_DEGREE];
        for candidate in ranked.iter() {
            let hidden = points[..kept.len()].iter().flatten().zip(taken.chunks_exact(room)).any(|(point, codes)| {
                // SAFETY: as above.
                let between = unsafe { distance::<S>(&terrain, candidate.vertex, &candidate.point, point, codes) };
                ALPHA * between <= candidate.distance
            });
            if hidden {
                spare.push(candidate.vertex);
                continue;
            }
            terrain.layout.signed(terrain.code(candidate.vertex), &mut taken[kept.len() * room..][..room]);
            points[kept.len()] = Some(candidate.point);
            kept.push(candidate.vertex);
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
