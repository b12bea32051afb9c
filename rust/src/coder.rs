//! Codes of rows for a first pass, of items and of queries alike: without their heavy coordinates, or along other directions.

use crate::buffer::Buffer;
use crate::directions::Directions;
use crate::quant::{Quantised, quantise};
use crate::simd::Simd;
use crate::stop::filled;
use crate::tile::Matrix;

/// Codes row after row.
pub(crate) struct Coder<'a> {
    heavy: &'a [usize],
    directions: Option<&'a Directions>,
    /// Of one row without its heavy ones, or of `rows` rotated ones.
    coordinates: Vec<f32>,
    workspace: Buffer,
    /// Of the last row.
    pub(crate) codes: Vec<u8>,
    /// The coordinates in f32 of the last row.
    pub(crate) floats: Vec<f64>,
}

impl<'a> Coder<'a> {
    /// For vectors of d coordinates, at most `rows` of which are [`Coder::rotate`]d at a time.
    pub(crate) fn new(d: usize, rows: usize, heavy: &'a [usize], directions: Option<&'a Directions>) -> Coder<'a> {
        Coder {
            heavy,
            directions,
            coordinates: filled(0.0, directions.map_or(d, |r| rows * r.stride())),
            workspace: Buffer::new(if directions.is_some() { (rows + 16) * d } else { 0 }),
            codes: filled(0, d - directions.map_or(0, |r| r.sizes().0)),
            floats: vec![0.0; directions.map_or(heavy.len(), Directions::extra)],
        }
    }

    /// Rows `i0..i1` of `x` come next.
    ///
    /// # Safety
    /// `S` is available.
    #[inline(always)]
    pub(crate) unsafe fn rotate<S: Simd, const MR: usize>(&mut self, x: &Matrix<f32>, (i0, i1): (usize, usize)) {
        if let Some(directions) = self.directions {
            // SAFETY: the caller's promise.
            unsafe { directions.rotate::<S, MR>(x, (i0, i1), &mut self.workspace, &mut self.coordinates) }
        }
    }

    /// Codes of row x of length `norm`, number `at` of those that were rotated last. Returns at least the length of its coordinates in
    /// f32, and, where it was rotated, its own.
    #[inline(always)]
    pub(crate) fn quantise(&mut self, x: &[f32], at: usize, norm: f64) -> (Quantised, f64) {
        match self.directions {
            Some(directions) => {
                let to = (&mut self.codes[..], &mut self.floats[..]);
                directions.quantise(&self.coordinates[at * directions.stride()..], norm, to)
            }
            None if self.heavy.is_empty() => (quantise(x, &mut self.codes), 0.0),
            None => {
                self.coordinates.copy_from_slice(x);
                for (to, &h) in self.floats.iter_mut().zip(self.heavy) {
                    *to = f64::from(std::mem::take(&mut self.coordinates[h]));
                }
                let heavy = self.floats.iter().map(|c| c * c).sum::<f64>().sqrt();
                (quantise(&self.coordinates, &mut self.codes), heavy)
            }
        }
    }
}
