//! The phases of a gradient, in which a team of threads walks together.

use super::job::{Form, Job, Place, Scratch};
use super::unit::{Step, Unit};
use super::{Loss, SUB_ROWS};
use crate::buffer::Shared;
use crate::logsum::LogSum;
use crate::pairs::LEFT_OUT;
use crate::simd::{Isa, tile_shape};
use crate::strip::STRIP;
use crate::team::Team;
use crate::tile::{Elem, pack_columns};

/// Where a team's results go.
pub(super) struct Results<'a, E> {
    pub(super) scale: f32,
    pub(super) x: Shared<E>,
    pub(super) y: Shared<E>,
    pub(super) x_bias: Shared<f32>,
    pub(super) dscale: Shared<f64>,
    /// `[prefix][row of x]`: Σ_j P · s.
    pub(super) row_dot: Shared<f64>,
    /// `[prefix]` of `job.diagonal` scores.
    pub(super) own_scores: &'a [f32],
    pub(super) own: Shared<f32>,
    pub(super) loss: SharedLoss<'a>,
}

/// The values of a loss, for a team.
pub(super) enum SharedLoss<'a> {
    Softmax,
    Nll {
        target: &'a [f32],
        softplus: bool,
        own_target: bool,
        loss: Shared<f32>,
        lse: Shared<f32>,
        coefficient: Shared<f32>,
    },
    Softplus {
        rows: Shared<f32>,
    },
}

impl<'a> Loss<'a> {
    pub(super) fn shared(self) -> SharedLoss<'a> {
        match self {
            Loss::Softmax { .. } => SharedLoss::Softmax,
            Loss::Nll { target, softplus, own_target, out, .. } => SharedLoss::Nll {
                target,
                softplus,
                own_target,
                loss: Shared::of(out.loss),
                lse: Shared::of(out.lse),
                coefficient: Shared::of(out.coefficient),
            },
            Loss::Softplus { rows, .. } => SharedLoss::Softplus { rows: Shared::of(rows) },
        }
    }
}

/// All phases, on one thread of the team.
pub(super) fn walk<E: Elem>(
    team: &Team,
    job: &Job<E>,
    results: &Results<E>,
    (width, one_superblock): (usize, bool),
    values_only: bool,
    isa: Isa,
) {
    let (m, n, k) = (job.x.rows, job.y.rows, job.scoring.words);
    let (mr, nr) = tile_shape(isa);
    let mut scratch = Scratch::new(job.count, E::PER_WORD == 2);
    for from in (0..n).step_by(width) {
        let to = n.min(from + width);
        let blocks = (to - from).div_ceil(STRIP);
        team.for_each(blocks, |u| {
            let (j0, j1) = (from + u * STRIP, to.min(from + (u + 1) * STRIP));
            // SAFETY: so in all of this function, units own what they write, and each phase ends with all threads waiting.
            unsafe {
                if job.stash.is_null() {
                    job.scoring.pack(&job.y, j0, j1, nr, job.y_panels.at((j0 - from) * k));
                }
                if job.want_x {
                    let to = job.y_columns.at((j0 - from) / E::PER_WORD * nr);
                    pack_columns(&job.y, (j0, j1), &job.panels, nr, job.y_stride, to);
                }
                if job.want_y {
                    std::ptr::write_bytes(job.dy.at((j0 - from) * job.padded), 0, (j1 - j0) * job.padded);
                }
            }
        });
        for i0 in (0..m).step_by(job.chunk) {
            let i1 = m.min(i0 + job.chunk);
            let place = Place { i0, i1, dx_row: if one_superblock { 0 } else { i0 }, from, to };
            let subs = (i1 - i0).div_ceil(SUB_ROWS);
            team.for_each(subs, |u| {
                let (a, b) = (i0 + u * SUB_ROWS, i1.min(i0 + (u + 1) * SUB_ROWS));
                // SAFETY: as above.
                unsafe {
                    if job.stash.is_null() {
                        job.scoring.pack(&job.x, a, b, mr, job.x_panels.at((a - i0) * k));
                    }
                    if job.want_y {
                        let to = job.x_columns.at((a - i0) / E::PER_WORD * nr);
                        pack_columns(&job.x, (a, b), &job.panels, nr, job.x_stride, to);
                    }
                    if job.want_x && one_superblock {
                        std::ptr::write_bytes(job.dx.at((a - i0) * job.padded), 0, (b - a) * job.padded);
                    }
                }
            });
            if job.form == Form::Nll {
                team.for_each(blocks, |unit| {
                    isa.run(Unit { job, place, step: Step::Scores, unit, scratch: &mut scratch })
                });
                team.for_each(subs, |u| {
                    for i in i0 + u * SUB_ROWS..i1.min(i0 + (u + 1) * SUB_ROWS) {
                        // SAFETY: as above.
                        unsafe { (0..job.count).for_each(|prefix| close_row(job, results, prefix, i, i - i0, blocks)) }
                    }
                });
                if values_only {
                    continue;
                }
            }
            team.for_each(blocks, |unit| isa.run(Unit { job, place, step: Step::Block, unit, scratch: &mut scratch }));
            team.for_each(subs, |unit| {
                if job.want_x {
                    isa.run(Unit { job, place, step: Step::Rows, unit, scratch: &mut scratch });
                }
                for i in i0 + unit * SUB_ROWS..i1.min(i0 + (unit + 1) * SUB_ROWS) {
                    // SAFETY: as above.
                    unsafe {
                        let sum =
                            |parts: Shared<f64>| (0..blocks).map(|b| *parts.at(b * job.chunk + i - i0)).sum::<f64>();
                        if let (SharedLoss::Softplus { rows }, true) = (&results.loss, *job.row_grad.at(i) != 0.0) {
                            *rows.at(i) = (f64::from(*rows.at(i)) + sum(job.row_parts)) as f32;
                        }
                        if !job.bias_parts.is_null() {
                            *results.x_bias.at(i) = (f64::from(*results.x_bias.at(i)) + sum(job.bias_parts)) as f32;
                        }
                        if !job.row_dot_parts.is_null() {
                            job.add_row_dot(results.row_dot, i, i - i0, blocks);
                        }
                        if job.want_x && to == n {
                            let sums = job.dx.at((place.dx_row + i - i0) * job.padded);
                            let off = job.projection(results.row_dot, results.own_scores, i, m, true);
                            let out = results.x.at(i * job.x.columns);
                            *results.dscale.at(i) = write_row(job, sums, job.x.row(i), results.scale, &off, out, nr);
                        }
                    }
                }
            });
        }
        team.for_each(if job.want_y { blocks } else { 0 }, |u| {
            for j in from + u * STRIP..to.min(from + (u + 1) * STRIP) {
                // SAFETY: as above.
                unsafe {
                    let sums = job.dy.at((j - from) * job.padded);
                    let off = job.projection(job.column_dot, results.own_scores, j, n, false);
                    let out = results.y.at(j * job.y.columns);
                    let dot = write_row(job, sums, job.y.row(j), results.scale, &off, out, nr);
                    if !job.want_x {
                        *results.dscale.at(j) = dot;
                    }
                }
            }
        });
    }
}

/// out = scale · sums - off · row, by the panels' prefixes; returns <sums, row>, a row's part of ∂L/∂scale.
///
/// # Safety
/// `sums` holds the panels, and `out` is as long as `row`.
unsafe fn write_row<E: Elem>(
    job: &Job<E>,
    sums: *const f32,
    row: &[E],
    scale: f32,
    off: &[f64],
    out: *mut E,
    nr: usize,
) -> f64 {
    let mut lanes = [0f64; 8];
    for (panel, &(d0, columns, prefix)) in job.panels.iter().enumerate() {
        let off = off.get(prefix).map_or(0.0, |o| *o as f32);
        for (c, v) in row[d0..d0 + columns].iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let s = *sums.add(panel * nr + c);
                lanes[c % 8] += f64::from(s) * f64::from(v.to_f32());
                *out.add(d0 + c) = E::from_f32(scale * s - off * v.to_f32());
            }
        }
    }
    lanes.iter().sum()
}

/// The row's LSE is complete: its loss, and the factors of its P.
unsafe fn close_row<E: Elem>(job: &Job<E>, results: &Results<E>, prefix: usize, i: usize, row: usize, blocks: usize) {
    let SharedLoss::Nll { target, softplus, own_target, loss, lse, coefficient } = &results.loss else { return };
    let (at, factor) = (prefix * job.x.rows + i, prefix * job.row_stride + i);
    // SAFETY: the caller's promise: this row belongs to this thread.
    unsafe {
        let mut sum = LogSum::EMPTY;
        for b in 0..blocks {
            sum.merge(*job.parts.at((b * job.count + prefix) * job.chunk + row));
        }
        let weight = f64::from(*job.row_grad.at(factor));
        let row_lse = sum.ln();
        if row_lse == f64::NEG_INFINITY || weight == 0.0 {
            (*job.row_lse.at(factor), *job.row_grad.at(factor)) = (-LEFT_OUT, 0.0);
            return;
        }
        let z = row_lse - f64::from(target[at]);
        let (value, slope) = if *softplus {
            let e = (-z.abs()).exp();
            (z.max(0.0) + e.ln_1p(), if z > 0.0 { 1.0 } else { e } / (1.0 + e))
        } else {
            (z, 1.0)
        };
        *lse.at(at) = row_lse as f32;
        *loss.at(at) = value as f32;
        *coefficient.at(at) = (weight * slope) as f32;
        // What rounding takes from the LSE goes into the factor: at a score of 300 it is 1e-5.
        *job.row_grad.at(factor) = (weight * slope * (f64::from(row_lse as f32) - row_lse).exp()) as f32;
        *job.row_lse.at(factor) = row_lse as f32;
        if *own_target {
            *results.own.at(at) = -(weight * slope) as f32;
        }
    }
}
