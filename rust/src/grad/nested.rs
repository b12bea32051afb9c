//! P of all prefixes of a block, summed for the coordinates that they share.
//!
//! Coordinates between d_(k-1) and d_k take part in every prefix from k on. With C_l = P_l / (|x|_l |y|_l) they are multiplied with
//! Σ_(l >= k) C_l, so every coordinate is multiplied once, as in a loss of whole rows. Normalisation takes off
//!
//! ```text
//! dX[i, k's coordinates] -= Σ_(l >= k) (Σ_j P_l s_l) / |x_i|_l² · x[i, k's coordinates]
//! ```
//!
//! and likewise from dY; the sums of P_l s_l are made on the way.

use super::STRIDE;
use super::job::{Form, Job, PAIRS_WORDS, STRIP_WORDS};
use super::unit::{Unit, narrow};
use crate::buffer::Shared;
use crate::simd::math::exp;
use crate::simd::{NV, Simd};
use crate::tile::Elem;

impl<E: Elem> Unit<'_, '_, E> {
    /// Summed coefficients of the block for every prefix, in place in the workspace, as `block` leaves P.
    #[inline(always)]
    pub(super) unsafe fn nested_block<S: Simd, const MR: usize>(&mut self) {
        let (job, place) = (self.job, self.place);
        let (j0, live) = self.columns();
        let columns = live.next_multiple_of(NV * S::W);
        let (sums, pairs) = (self.scratch.columns.as_mut_ptr(), self.scratch.pairs.as_mut_ptr());
        let scratch = self.scratch.strip.as_mut_ptr();
        // SAFETY: as for the unit.
        unsafe {
            std::ptr::write_bytes(sums, 0, job.count * STRIDE);
            for i in (place.i0..place.i1).step_by(MR) {
                let rows = MR.min(place.i1 - i);
                let kept = |k| self.p_block(self.unit, k).add((i - place.i0) * job.p_stride);
                let in_place = E::PER_WORD == 1 || job.form == Form::Nll;
                let strip = |k| if in_place { kept(k) } else { scratch.add(k * STRIP_WORDS) };
                let idle = self.idle(i, rows);
                if !idle && job.form != Form::Nll {
                    for k in 0..job.count {
                        self.strip::<S, MR>(i, k, strip(k));
                    }
                }
                for k in (0..job.count).rev() {
                    for r in 0..MR {
                        let line = strip(k).add(r * STRIDE);
                        let dot = if idle {
                            std::ptr::write_bytes(line, 0, columns);
                            0.0
                        } else {
                            let longer =
                                if k + 1 < job.count { strip(k + 1).add(r * STRIDE) } else { std::ptr::null_mut() };
                            self.coefficients::<S>(k, i + r, (line, longer), sums.add(k * STRIDE), columns)
                        };
                        if r < rows {
                            *job.row_dot_parts.at((self.unit * job.count + k) * job.chunk + i + r - place.i0) = dot;
                        }
                    }
                }
                if E::PER_WORD == 2 {
                    for k in 0..job.count {
                        let pairs = pairs.add(k * PAIRS_WORDS + (i - place.i0) / 2 * STRIDE);
                        narrow::<S, MR>(strip(k), columns, (kept(k), job.p_stride), pairs);
                    }
                }
            }
            for k in 0..job.count {
                for c in 0..live {
                    *job.column_dot.at(k * job.y.rows + j0 + c) += f64::from(*sums.add(k * STRIDE + c));
                }
            }
        }
    }

    /// Scores of row `i` to coefficients, to which those of the next longer prefix are added; adds P · s to `sums` and returns its sum.
    #[inline(always)]
    unsafe fn coefficients<S: Simd>(
        &self,
        k: usize,
        i: usize,
        (line, longer): (*mut f32, *const f32),
        sums: *mut f32,
        columns: usize,
    ) -> f64 {
        let job = self.job;
        let (j0, _) = self.columns();
        let Some(prefixes) = job.scoring.prefixes else { return 0.0 };
        let (of_row, of_column) = (k * job.row_stride + i, k * job.column_stride + j0);
        // SAFETY: as for the unit; factors are padded for whole tiles.
        unsafe {
            let (lse, grad) = (S::splat(*job.row_lse.at(of_row)), S::splat(*job.row_grad.at(of_row)));
            let inverse = prefixes.inverse_x(k, i);
            let mut total = S::splat(0.0);
            for c in (0..columns).step_by(S::W) {
                let s = S::load(line.add(c));
                let mut p = S::splat(0.0);
                if job.form != Form::Column {
                    p = S::mul(grad, exp::<S>(S::sub(s, lse)));
                }
                if matches!(job.form, Form::Column | Form::Both) {
                    let column_lse = S::load(job.column_lse.at(of_column + c));
                    p = S::fma(S::load(job.column_grad.at(of_column + c)), exp::<S>(S::sub(s, column_lse)), p);
                }
                let dot = S::mul(p, s);
                total = S::add(total, dot);
                S::store(sums.add(c), S::add(S::load(sums.add(c)), dot));
                let by_norms = S::mul(S::splat(inverse), S::load(prefixes.inverse_y(k, j0 + c)));
                let rest = if longer.is_null() { S::splat(0.0) } else { S::load(longer.add(c)) };
                S::store(line.add(c), S::fma(p, by_norms, rest));
            }
            if i < job.diagonal && (j0..j0 + columns).contains(&i) {
                let own = *job.diagonal_grad.at(k * job.diagonal + i);
                *line.add(i - j0) += own * inverse * *prefixes.inverse_y(k, i);
            }
            f64::from(S::sum(total))
        }
    }
}

impl<E: Elem> Job<'_, E> {
    /// Adds the partial sums of P · s of row `i`, the chunk's `row`, to `total`.
    ///
    /// # Safety
    /// The row belongs to the caller.
    pub(super) unsafe fn add_row_dot(&self, total: Shared<f64>, i: usize, row: usize, blocks: usize) {
        for k in 0..self.count {
            // SAFETY: the caller's promise.
            unsafe {
                let parts = (0..blocks).map(|b| *self.row_dot_parts.at((b * self.count + k) * self.chunk + row));
                *total.at(k * self.x.rows + i) += parts.sum::<f64>();
            }
        }
    }

    /// What normalisation takes off the gradient of row `i` of x (`of_x`) or y, as a multiple of the row, for each prefix's coordinates.
    ///
    /// # Safety
    /// The row is one of `rows`, and the sums of its P · s are complete.
    pub(super) unsafe fn projection(
        &self,
        dots: Shared<f64>,
        own_scores: &[f32],
        i: usize,
        rows: usize,
        of_x: bool,
    ) -> Vec<f64> {
        let Some(prefixes) = self.scoring.prefixes.filter(|p| p.normalized()) else { return vec![] };
        let (mut off, mut sum) = (vec![0f64; self.count], 0f64);
        for k in (0..self.count).rev() {
            // SAFETY: the caller's promise.
            unsafe {
                let mut dot = *dots.at(k * rows + i);
                if i < self.diagonal {
                    let own = k * self.diagonal + i;
                    dot += f64::from(*self.diagonal_grad.at(own)) * f64::from(own_scores[own]);
                }
                let inverse = if of_x { prefixes.inverse_x(k, i) } else { *prefixes.inverse_y(k, i) };
                sum += dot * f64::from(inverse).powi(2);
            }
            off[k] = sum;
        }
        off
    }
}
