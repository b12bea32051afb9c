//! Items of an exact store, packed for its first pass.

use crate::coder::Coder;
use crate::directions::Directions;
use crate::exact::{Items, Metric, dot, inverse_norm};
use crate::quant::{Column, bounds, up};
use crate::scan::{BLOCK, Code, PANEL, Terms};
use crate::simd::{Kernel, Simd};
use crate::tile::Matrix;
use crate::topk::pack;

/// Rows that are rotated together: whole panels.
pub(crate) const ROTATED: usize = 128;

/// Prepares one block of columns.
pub(crate) struct Prepare<'a, 'b> {
    pub(crate) items: Items<'a>,
    pub(crate) codes: bool,
    pub(crate) block: usize,
    pub(crate) to: usize,
    pub(crate) directions: Option<&'a Directions>,
    pub(crate) panels: *mut f32,
    pub(crate) tails: *mut f32,
    pub(crate) heavy_panels: *mut f32,
    pub(crate) start: *mut f32,
    pub(crate) factor: *mut f32,
    pub(crate) offset: *mut f32,
    pub(crate) inverse: *mut f64,
    pub(crate) coder: &'a mut Coder<'b>,
    pub(crate) bytes: &'a mut Vec<u8>,
    pub(crate) floats: &'a mut Vec<f32>,
}

impl Kernel for Prepare<'_, '_> {
    /// The bounds, and whether some vectors are passed as 0 for their size.
    type Out = (Terms, bool);
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> (Terms, bool) {
        let Items { metric, d, scale, bias, .. } = self.items;
        let coded = self.directions.map_or(d, |r| r.sizes().1);
        let extra = self.coder.floats.len();
        let (mut facts, mut outliers) = ([Column::default(); BLOCK], false);
        for first in (self.block..self.to).step_by(PANEL) {
            let live = PANEL.min(self.to - first);
            if (first - self.block).is_multiple_of(ROTATED) {
                let rows = Matrix::new(self.items.vectors, self.items.vectors.len() / d, d);
                // SAFETY: the caller's promise.
                unsafe { self.coder.rotate::<S, MR>(&rows, (first, self.to.min(first + ROTATED))) };
            }
            for c in 0..live {
                let (j, column) = (first + c, &mut facts[first + c - self.block]);
                let y = self.items.vector(j);
                let unused = self.codes && self.directions.is_none() && metric == Metric::InnerProduct;
                let square = if unused { 0.0 } else { dot(y, y) };
                let alpha = match metric {
                    Metric::Cosine => inverse_norm(square) * scale.map_or(1.0, |a| f64::from(a[j])),
                    _ => scale.map_or(1.0, |a| f64::from(a[j])),
                };
                let beta = match metric {
                    Metric::SquaredL2 => -0.5 * square,
                    _ => bias.map_or(0.0, |b| f64::from(b[j])),
                };
                *column =
                    Column { factor: alpha.abs(), residual: 0.0, norm: square.sqrt(), heavy: 0.0, offset: beta.abs() };
                let (mut unit, mut start) = (1.0, 0);
                if self.codes {
                    let (q, heavy) = self.coder.quantise(y, (first - self.block) % ROTATED + c, square.sqrt());
                    let (leading, rest) = self.coder.codes.split_at(coded);
                    self.bytes[c * coded..][..coded].copy_from_slice(leading);
                    column.heavy = heavy;
                    start = -128 * q.sum;
                    if let Some(directions) = self.directions {
                        start += 128 * rest.iter().map(|&b| i32::from(b as i8)).sum::<i32>();
                        let width = directions.tail();
                        // SAFETY: this unit owns the columns of its block.
                        let tail =
                            unsafe { std::slice::from_raw_parts_mut(self.tails.cast::<u8>().add(j * width), width) };
                        tail.iter_mut().zip(rest).for_each(|(to, b)| *to = b ^ 0x80);
                    }
                    unit = f64::from(q.scale);
                    (column.residual, column.norm) = (q.residual * unit, q.norm * unit);
                }
                let (mut factor, mut heavy_factor) = (alpha * unit, alpha);
                if !column.passes(factor, self.codes) {
                    outliers = true;
                    (factor, heavy_factor) = (0.0, 0.0);
                    if !self.codes {
                        if self.floats.is_empty() {
                            self.floats.extend_from_slice(&self.items.vectors[first * d..(first + live) * d]);
                        }
                        self.floats[c * d..][..d].fill(0.0);
                    }
                }
                // SAFETY: this unit owns the columns of its block.
                unsafe {
                    *self.start.add(j) = f32::from_bits(start as u32);
                    *self.factor.add(j) = factor as f32;
                    *self.offset.add(j) = column.small_offset(beta) as f32;
                    let at = self.heavy_panels.add(first * extra + c);
                    for (t, x) in self.coder.floats.iter().enumerate() {
                        *at.add(t * PANEL) = (x * heavy_factor) as f32;
                    }
                    if self.directions.is_some() {
                        *at.add((extra - 1) * PANEL) = up(self.coder.floats[extra - 1] * heavy_factor.abs());
                    }
                    if metric == Metric::Cosine {
                        *self.inverse.add(j) = inverse_norm(square);
                    }
                }
            }
            // SAFETY: as above; Code is a transparent byte.
            unsafe {
                if self.codes {
                    let bytes = std::slice::from_raw_parts(self.bytes.as_ptr().cast::<Code>(), live * coded);
                    let out = self.panels.add(first * coded.div_ceil(4));
                    pack(&Matrix::new(bytes, live, coded), 0, live, out);
                } else if self.floats.is_empty() {
                    pack(
                        &Matrix::new(self.items.vectors, self.items.vectors.len() / d, d),
                        first,
                        first + live,
                        self.panels.add(first * d),
                    );
                } else {
                    pack(&Matrix::new(self.floats, live, d), 0, live, self.panels.add(first * d));
                    self.floats.clear();
                }
            }
        }
        (bounds(&facts[..self.to - self.block], d, self.codes), outliers)
    }
}
