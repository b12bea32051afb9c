//! What one unit of work does: P of a block and its share of dY, or dX of a few rows.

use super::job::{Form, Job, PAIRS_WORDS, Place, Scratch};
use super::{STRIDE, SUB_ROWS};
use crate::buffer::Shared;
use crate::logsum::{ColumnSums, LogSum, reduce};
use crate::simd::math::{exp, softplus_sigmoid};
use crate::simd::{Kernel, NV, Simd};
use crate::strip::{STRIP, Stash};
use crate::tile::{Elem, tile_chained};

/// Words of P summed in one chain: half a block of float32, a whole one of bfloat16, whose rounding is coarser anyway.
const CHAIN: usize = STRIP / 2;

pub(super) enum Step {
    /// Scores and row sums of a block (Nll).
    Scores,
    /// P of a block, then its share of dY.
    Block,
    /// dX of `SUB_ROWS` rows.
    Rows,
}

pub(super) struct Unit<'a, 'j, E> {
    pub(super) job: &'a Job<'j, E>,
    pub(super) place: Place,
    pub(super) step: Step,
    pub(super) unit: usize,
    pub(super) scratch: &'a mut Scratch,
}

impl<E: Elem> Kernel for Unit<'_, '_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(mut self) {
        let of_block = matches!(self.step, Step::Scores | Step::Block);
        if of_block && self.job.nothing_in(self.place, self.unit) {
            // SAFETY: the block's partial results are this unit's.
            unsafe { self.job.clear_parts(self.unit) };
            return;
        }
        // SAFETY: the job's arrays cover its rows and columns, and this unit owns what it writes.
        unsafe {
            match self.step {
                Step::Scores => self.scores::<S, MR>(),
                Step::Block => {
                    if self.job.scoring.prefixes.is_some() {
                        self.nested_block::<S, MR>();
                    } else {
                        self.block::<S, MR>();
                    }
                    if self.job.want_y {
                        self.dy::<S, MR>();
                    }
                }
                Step::Rows => self.dx::<S, MR>(),
            }
        }
    }
}

impl<E: Elem> Unit<'_, '_, E> {
    /// (first column, columns) of this unit's block.
    #[inline(always)]
    pub(super) fn columns(&self) -> (usize, usize) {
        let j0 = self.place.from + self.unit * STRIP;
        (j0, STRIP.min(self.place.to - j0))
    }

    #[inline(always)]
    pub(super) unsafe fn p_block(&self, block: usize, prefix: usize) -> *mut f32 {
        // SAFETY: the workspace holds all blocks of a chunk.
        unsafe { self.job.p.at((block * self.job.count + prefix) * self.job.chunk * self.job.p_stride) }
    }

    /// Whether no row from `i` on for `rows` rows has a factor: nothing to do for its panel.
    #[inline(always)]
    pub(super) unsafe fn idle(&self, i: usize, rows: usize) -> bool {
        let job = self.job;
        let row_only = matches!(job.form, Form::Row | Form::Nll | Form::Softplus);
        // SAFETY: the rows exist.
        let zero = |of: Shared<f32>, at: usize| unsafe { *of.at(at) } == 0.0;
        row_only
            && (0..job.count).all(|k| {
                (i..i + rows).all(|i| zero(job.row_grad, k * job.row_stride + i))
                    && (i..(i + rows).min(job.diagonal)).all(|i| zero(job.diagonal_grad, k * job.diagonal + i))
            })
    }

    /// Scores of the panel at row `i` into `strip`, of the prefixes in their order.
    #[inline(always)]
    pub(super) unsafe fn strip<S: Simd, const MR: usize>(
        &self,
        i: usize,
        prefix: usize,
        strip: *mut f32,
    ) -> (f32, f32) {
        let (job, place, k) = (self.job, self.place, self.job.scoring.words);
        let (j0, columns) = self.columns();
        // SAFETY: as for the unit.
        unsafe {
            if !job.stash.is_null() {
                let from = Stash { at: job.stash.add(i * job.y.rows + j0), stride: job.y.rows };
                from.read::<S>(strip, STRIDE, (MR.min(place.i1 - i), MR), columns);
                return (f32::INFINITY, f32::NEG_INFINITY);
            }
            let a = (job.x_panels.at((i - place.i0) * k).cast_const(), i);
            let b = (job.y_panels.at((j0 - place.from) * k).cast_const(), j0, columns);
            let dot = self.scratch.dot.as_ptr().cast_mut();
            job.scoring.strip_of::<S, E, MR>(prefix, a, b, dot, (strip, STRIDE))
        }
    }

    #[inline(always)]
    unsafe fn scores<S: Simd, const MR: usize>(&self) {
        let (_, columns) = self.columns();
        let (job, place) = (self.job, self.place);
        // SAFETY: as for the unit.
        unsafe {
            for i in (place.i0..place.i1).step_by(MR) {
                let rows = MR.min(place.i1 - i);
                let idle = self.idle(i, rows);
                for prefix in 0..job.count {
                    let parts = job.parts.at((self.unit * job.count + prefix) * job.chunk + i - place.i0);
                    for r in 0..rows {
                        *parts.add(r) = LogSum::EMPTY;
                    }
                    if idle {
                        continue;
                    }
                    let strip = self.p_block(self.unit, prefix).add((i - place.i0) * STRIDE);
                    let bounds = self.strip::<S, MR>(i, prefix, strip);
                    let no_columns = ColumnSums { exponent: std::ptr::null_mut(), sum: std::ptr::null_mut() };
                    reduce::<S, MR, true, false>((strip, STRIDE), (rows, columns), bounds, parts, no_columns);
                }
            }
        }
    }

    /// P of the block, in place in the workspace: float32, or bfloat16 packed to the left of each row's words.
    #[inline(always)]
    unsafe fn block<S: Simd, const MR: usize>(&mut self) {
        let (job, place) = (self.job, self.place);
        let (j0, live) = self.columns();
        let columns = live.next_multiple_of(NV * S::W);
        let signs = self.scratch.signs.as_mut_ptr();
        let sums = self.scratch.columns.as_mut_ptr();
        let want_y_bias = !job.y_bias.is_null();
        // SAFETY: as for the unit.
        unsafe {
            if want_y_bias {
                std::ptr::write_bytes(sums, 0, columns);
            }
            let block = self.p_block(self.unit, 0);
            for i in (place.i0..place.i1).step_by(MR) {
                let rows = MR.min(place.i1 - i);
                let kept = block.add((i - place.i0) * job.p_stride);
                // Without bfloat16 the block itself is the strip; Nll has its scores there already.
                let strip =
                    if E::PER_WORD == 1 || job.form == Form::Nll { kept } else { self.scratch.strip.as_mut_ptr() };
                let parts = self.unit * job.chunk + i - place.i0;
                if self.idle(i, rows) {
                    for r in 0..MR {
                        std::ptr::write_bytes(strip.add(r * STRIDE), 0, columns);
                    }
                    for r in 0..rows {
                        if !job.row_parts.is_null() {
                            *job.row_parts.at(parts + r) = 0.0;
                        }
                        if !job.bias_parts.is_null() {
                            *job.bias_parts.at(parts + r) = 0.0;
                        }
                    }
                } else {
                    if job.form != Form::Nll {
                        self.strip::<S, MR>(i, 0, strip);
                    }
                    for r in 0..MR {
                        let line = strip.add(r * STRIDE);
                        let value = self.row_of_p::<S>(line, i + r, (j0, columns), signs);
                        if r >= rows {
                            continue;
                        }
                        if !job.row_parts.is_null() {
                            *job.row_parts.at(parts + r) = value;
                        }
                        if i + r < job.diagonal && (j0..j0 + live).contains(&(i + r)) {
                            *line.add(i + r - j0) += *job.diagonal_grad.at(i + r);
                        }
                        if !job.bias_parts.is_null() {
                            let mut sum = S::splat(0.0);
                            for c in (0..columns).step_by(S::W) {
                                sum = S::add(sum, S::load(line.add(c)));
                            }
                            *job.bias_parts.at(parts + r) = f64::from(S::sum(sum));
                        }
                    }
                    if want_y_bias {
                        for c in (0..columns).step_by(S::W) {
                            let mut sum = S::splat(0.0);
                            for r in 0..rows {
                                sum = S::add(sum, S::load(strip.add(r * STRIDE + c)));
                            }
                            S::store(sums.add(c), S::add(S::load(sums.add(c)), sum));
                        }
                    }
                }
                if E::PER_WORD == 2 {
                    let pairs = self.scratch.pairs.as_mut_ptr().add((i - place.i0) / 2 * STRIDE);
                    narrow::<S, MR>(strip, columns, (kept, job.p_stride), pairs);
                }
            }
            if want_y_bias {
                for c in 0..live {
                    *job.y_bias.at(j0 + c) += *sums.add(c);
                }
            }
        }
    }

    /// Scores of row `i` to its P; returns the row's loss where the form has one.
    #[inline(always)]
    unsafe fn row_of_p<S: Simd>(
        &self,
        line: *mut f32,
        i: usize,
        (j0, columns): (usize, usize),
        signs: *mut f32,
    ) -> f64 {
        let job = self.job;
        // SAFETY: as for the unit; factors are padded for whole tiles.
        unsafe {
            let (lse, grad) = (S::splat(*job.row_lse.at(i)), S::splat(*job.row_grad.at(i)));
            let column = |c: usize| (S::load(job.column_lse.at(j0 + c)), S::load(job.column_grad.at(j0 + c)));
            match job.form {
                Form::Row | Form::Nll => {
                    for c in (0..columns).step_by(S::W) {
                        let s = S::load(line.add(c));
                        S::store(line.add(c), S::mul(grad, exp::<S>(S::sub(s, lse))));
                    }
                }
                Form::Column => {
                    for c in (0..columns).step_by(S::W) {
                        let (s, (column_lse, column_grad)) = (S::load(line.add(c)), column(c));
                        S::store(line.add(c), S::mul(column_grad, exp::<S>(S::sub(s, column_lse))));
                    }
                }
                Form::Both => {
                    for c in (0..columns).step_by(S::W) {
                        let (s, (column_lse, column_grad)) = (S::load(line.add(c)), column(c));
                        let of_column = S::mul(column_grad, exp::<S>(S::sub(s, column_lse)));
                        S::store(line.add(c), S::fma(grad, exp::<S>(S::sub(s, lse)), of_column));
                    }
                }
                Form::Softplus => {
                    let mut sum = S::splat(0.0);
                    let signed = job.scoring.pairs.signs::<S>(signs, i, (j0, columns));
                    for c in (0..columns).step_by(S::W) {
                        let (softplus, sigmoid) = softplus_sigmoid::<S>(S::load(line.add(c)));
                        sum = S::add(sum, softplus);
                        let p = S::mul(grad, sigmoid);
                        S::store(line.add(c), if signed { S::mul(p, S::load(signs.add(c))) } else { p });
                    }
                    return f64::from(S::sum(sum));
                }
            }
        }
        0.0
    }

    /// dY of the block += Pᵀ X over the rows of the chunk.
    #[inline(always)]
    unsafe fn dy<S: Simd, const MR: usize>(&mut self) {
        let (job, place, nr) = (self.job, self.place, NV * S::W);
        let (j0, live) = self.columns();
        let rows = (place.i1 - place.i0).next_multiple_of(MR);
        // SAFETY: as for the unit. A tile may read columns of P past the block's padding; those rows of dY are not stored.
        unsafe {
            for (panel, &(_, _, prefix)) in job.panels.iter().enumerate() {
                let p = if E::PER_WORD == 1 {
                    self.p_block(self.unit, prefix)
                } else {
                    self.scratch.pairs.as_mut_ptr().add(prefix * PAIRS_WORDS)
                };
                let b = job.x_columns.at(panel * job.x_stride);
                for j in (0..live).step_by(MR) {
                    let acc = tile_chained::<S, E, MR, CHAIN>(rows / E::PER_WORD, (p.add(j), 1, STRIDE), (b, nr));
                    for (r, lanes) in acc.iter().enumerate().take(live - j) {
                        add_to::<S>(job.dy.at((j0 - place.from + j + r) * job.padded + panel * nr), lanes);
                    }
                }
            }
        }
    }

    /// dX of `SUB_ROWS` rows of the chunk += P Y over the columns of the superblock.
    #[inline(always)]
    unsafe fn dx<S: Simd, const MR: usize>(&mut self) {
        let (job, place, nr) = (self.job, self.place, NV * S::W);
        let first = self.unit * SUB_ROWS;
        let rows = SUB_ROWS.min(place.i1 - place.i0 - first);
        // SAFETY: as for the unit.
        unsafe {
            for block in 0..(place.to - place.from).div_ceil(STRIP) {
                if job.nothing_in(place, block) {
                    continue;
                }
                let j = block * STRIP;
                let k = STRIP.min(place.to - place.from - j).div_ceil(E::PER_WORD);
                for (panel, &(_, _, prefix)) in job.panels.iter().enumerate() {
                    let p = self.p_block(block, prefix);
                    let b = job.y_columns.at(panel * job.y_stride + j / E::PER_WORD * nr);
                    for i in (0..rows).step_by(MR) {
                        let acc = tile_chained::<S, E, MR, CHAIN>(
                            k,
                            (p.add((first + i) * job.p_stride), job.p_stride, 1),
                            (b, nr),
                        );
                        for (r, lanes) in acc.iter().enumerate().take(rows - i) {
                            add_to::<S>(job.dx.at((place.dx_row + first + i + r) * job.padded + panel * nr), lanes);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn add_to<S: Simd>(to: *mut f32, lanes: &[S::V; NV]) {
    for (v, lane) in lanes.iter().enumerate() {
        // SAFETY: sums are padded to whole tiles.
        unsafe { S::store(to.add(v * S::W), S::add(S::load(to.add(v * S::W)), *lane)) }
    }
}

/// `MR` rows of P to bfloat16, twice: pairs along the row to `rows`, which may be the strip itself, and pairs of rows to `pairs`.
#[inline(always)]
pub(super) unsafe fn narrow<S: Simd, const MR: usize>(
    strip: *const f32,
    columns: usize,
    (rows, rows_stride): (*mut f32, usize),
    pairs: *mut f32,
) {
    // SAFETY: the caller's buffers. In place, a vector is read before its half as wide result is written to its left.
    unsafe {
        for r in (0..MR).step_by(2) {
            let (low, high) = (strip.add(r * STRIDE), strip.add((r + 1) * STRIDE));
            for c in (0..columns).step_by(S::W) {
                let (a, b) = (S::load(low.add(c)), S::load(high.add(c)));
                S::store(pairs.add(r / 2 * STRIDE + c), S::pair_bf16(a, b));
                S::store_bf16(rows.add(r * rows_stride).cast::<u16>().add(c), a);
                S::store_bf16(rows.add((r + 1) * rows_stride).cast::<u16>().add(c), b);
            }
        }
    }
}
