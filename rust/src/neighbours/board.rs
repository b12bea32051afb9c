//! What is known of all vectors so far: their candidates, and what a pair has to reach on either side.

use crate::buffer::Shared;
use crate::hits::Hit;
use crate::passed::Passed;
use crate::select::{Candidate, Selector};

/// Thresholds are lowered by this share of their terms: more than the five roundings they pass in f32.
const SLACK: f64 = 1.0 / (1u32 << 20) as f64;
/// The same for candidates, in f64.
const SLACK_F64: f64 = 1.0 / (1u64 << 34) as f64;
/// Errors are at least this: a zero vector's is 0, and its ties must not depend on the order in which they are met.
const LEAST_ERROR: f32 = 1e-30;

/// A vector's unit of scores.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    /// w; 0 where nothing bounds its scores.
    weight: f64,
    /// 1 / w
    inverse: f64,
    /// ‖x‖², for squared distances.
    square: f64,
}

impl Unit {
    /// Those of a side.
    pub(super) fn of(passed: &Passed, squared: bool) -> impl Iterator<Item = Unit> {
        passed.facts.iter().zip(&passed.queries).map(move |([_, square, weight], query)| {
            let weight = if query.error < f32::INFINITY { *weight } else { 0.0 };
            Unit { weight, inverse: 1.0 / weight, square: if squared { *square } else { 0.0 } }
        })
    }
}

/// What is known of all vectors so far.
pub(super) struct Board<'a> {
    pub(super) units: &'a [Unit],
    pub(super) side: usize,
    pub(super) passed: &'a [Passed<'a>],
    pub(super) selectors: Shared<Selector>,
    /// A column j may still matter to row i where `v_ij > w_i · reach_j + …`; infinite past the last.
    pub(super) reach: Shared<f32>,
}

impl<'a> Board<'a> {
    pub(super) fn of(&self, i: usize) -> &'a Passed<'a> {
        &self.passed[i / self.side]
    }

    /// One more candidate of vector `i`, in its own unit. Returns its threshold, and how many exact scores were computed.
    ///
    /// # Safety
    /// No other thread has `i`.
    pub(super) unsafe fn offer(&self, i: usize, candidate: Candidate) -> (f32, usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let selector = &mut *self.selectors.at(i);
            if candidate.upper < selector.threshold() || !selector.push(candidate) {
                return (selector.threshold(), 0);
            }
            let computed = selector.cut_bounds(i, self.of(i));
            let floor = selector.threshold();
            let unit = self.units[i];
            *self.reach.at(i) = if unit.weight > 0.0 {
                let (at, half) = (f64::from(floor) * unit.inverse, 0.5 * unit.square);
                ((at - half - SLACK * (at.abs() + half)) as f32).next_down()
            } else {
                f32::NEG_INFINITY
            };
            (floor, computed)
        }
    }

    /// Column j as a candidate of row i, seen from j.
    pub(super) fn mirrored(&self, i: usize, j: usize, value: f32, error: f32) -> Candidate {
        let id = i as u32;
        let (own, other) = (self.units[i], self.units[j]);
        if own.weight == 0.0 || other.weight == 0.0 || error == f32::INFINITY {
            return Candidate { lower: f32::NEG_INFINITY, upper: f32::INFINITY, id };
        }
        let (value, error, ratio) = (f64::from(value), f64::from(error), other.weight * own.inverse);
        let shift = other.weight * 0.5 * (other.square - own.square);
        let slack = SLACK_F64 * ((value.abs() + error) * ratio + other.weight * (other.square + own.square));
        Candidate {
            lower: (((value - error) * ratio + shift - slack) as f32).next_down(),
            upper: (((value + error) * ratio + shift + slack) as f32).next_up(),
            id,
        }
    }
}

/// Thresholds of a tile's rows for one block of columns: the rows' own, and what the columns' are made with.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) error: [f32; 16],
    pub(super) own: [f32; 16],
    pub(super) factor: [f32; 16],
    pub(super) offset: [f32; 16],
}

impl Limits {
    /// No value passes.
    pub(super) const NONE: Limits =
        Limits { error: [0.0; 16], own: [f32::INFINITY; 16], factor: [0.0; 16], offset: [f32::INFINITY; 16] };

    /// # Safety
    /// No other thread has vector `i`.
    pub(super) unsafe fn set(&mut self, r: usize, board: &Board, i: usize, error: f32) {
        let error = error.max(LEAST_ERROR);
        self.error[r] = error;
        // SAFETY: the caller's promise.
        self.own[r] = unsafe { (*board.selectors.at(i)).threshold() } - error;
        let Unit { weight, square, .. } = board.units[i];
        (self.factor[r], self.offset[r]) = if weight > 0.0 && error < f32::INFINITY {
            let (half, error) = (0.5 * weight * square, f64::from(error));
            (weight as f32, ((half - error - SLACK * (half + error)) as f32).next_down())
        } else {
            (1.0, f32::NEG_INFINITY)
        };
    }

    /// Whether a value of a tile whose columns begin with `column` passes for its row, and for its column.
    ///
    /// # Safety
    /// No other thread has the column.
    #[inline(always)]
    pub(super) unsafe fn passed(&self, board: &Board, column: usize, hit: Hit) -> (bool, bool) {
        // SAFETY: the caller's promise.
        let reach = unsafe { *board.reach.at(column + hit.column) };
        (hit.value > self.own[hit.row], hit.value > reach * self.factor[hit.row] + self.offset[hit.row])
    }
}
