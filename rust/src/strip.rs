//! A strip: the scores of `MR` rows against a block of columns, while they are in the cache.

use crate::pairs::{LARGEST, LEFT_OUT, Pairs};
use crate::prefixes::Prefixes;
use crate::simd::{NV, Simd};
use crate::tile::{Elem, Matrix, pack_panels, pack_ranges, tile_packed};

/// Columns of a strip.
pub const STRIP: usize = 384;

/// How inner products become scores: `unit * <x_i, y_j> + biases`, then left-out pairs.
pub struct Scoring<'a> {
    /// Words in a packed row.
    pub words: usize,
    /// The scale.
    pub unit: f32,
    /// Biases, and the left-out pairs.
    pub pairs: &'a Pairs<'a>,
    /// Prefixes of the coordinates in place of whole rows; then there are no biases.
    pub prefixes: Option<&'a Prefixes>,
}

/// Whether all inputs are finite and no score, nor a partial sum of one, can be too large for what tells pairs apart from left-out ones.
pub fn scores_are_finite<E: Elem>(x: &Matrix<E>, y: &Matrix<E>, scale: f32) -> bool {
    let bound = f64::from(x.largest()) * f64::from(y.largest()) * x.columns as f64;
    scale.is_finite() && bound < f64::from(LARGEST) && bound * f64::from(scale.abs()) < f64::from(LARGEST)
}

/// Where the scores of a strip are kept as float16 (left-out pairs as −∞).
#[derive(Clone, Copy)]
pub struct Stash {
    /// Element (i0, j0).
    pub at: *mut u16,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl<'a> Scoring<'a> {
    /// Of whole rows, or of prefixes.
    pub fn new<E: Elem>(
        x: &Matrix<E>,
        scale: f32,
        pairs: &'a Pairs<'a>,
        prefixes: Option<&'a Prefixes>,
    ) -> Scoring<'a> {
        Scoring { words: prefixes.map_or(x.words(), Prefixes::words), unit: scale, pairs, prefixes }
    }

    /// How many scores a pair has: its prefixes, or 1.
    pub fn count(&self) -> usize {
        self.prefixes.map_or(1, Prefixes::len)
    }

    /// Rows `i0..i1` in panels of `r` rows.
    ///
    /// # Safety
    /// As for [`pack_panels`].
    pub unsafe fn pack<E: Elem>(&self, x: &Matrix<E>, i0: usize, i1: usize, r: usize, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.prefixes {
                None => pack_panels(x, i0, i1, r, out),
                Some(prefixes) => pack_ranges(x, &prefixes.ranges, (i0, i1), r, out),
            }
        }
    }

    /// [`Scoring::strip`] of prefix `k`, where there are prefixes: one after the other, with `dot` kept between them.
    ///
    /// # Safety
    /// As for [`Scoring::strip`]; with prefixes `dot` is as large as `strip`.
    #[inline(always)]
    pub unsafe fn strip_of<S: Simd, E: Elem, const MR: usize>(
        &self,
        k: usize,
        a: (*const f32, usize),
        b: (*const f32, usize, usize),
        dot: *mut f32,
        (strip, stride): (*mut f32, usize),
    ) -> (f32, f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.prefixes {
                None => self.strip::<S, E, MR>(a, b, strip, stride),
                Some(prefixes) => prefixes.strip::<S, E, MR>(self, k, a, b, dot, (strip, stride)),
            }
        }
    }

    /// Scores of rows `i0..i0 + MR` (packed in `a`) and columns `j0..j0 + columns` (packed in `b`) into `strip`;
    /// `i0` is a multiple of `MR`, and `j0` of a tile's columns. Columns are rounded up to whole tiles, everything past the last row or column is left out.
    /// Returns the largest and the smallest score, taken before pairs were left out.
    ///
    /// # Safety
    /// `S` is available, the panels are packed for its tile, and `strip` has `MR` rows of `stride >= columns` words, rounded up.
    #[inline(always)]
    pub unsafe fn strip<S: Simd, E: Elem, const MR: usize>(
        &self,
        (a, i0): (*const f32, usize),
        (b, j0, columns): (*const f32, usize, usize),
        strip: *mut f32,
        stride: usize,
    ) -> (f32, f32) {
        let nr = NV * S::W;
        let columns = columns.next_multiple_of(nr);
        // SAFETY: the caller's promise.
        unsafe {
            let unit = S::splat(self.unit);
            let row_bias: [f32; MR] = std::array::from_fn(|r| self.pairs.row_bias(i0 + r));
            let (mut high, mut low) = (S::splat(f32::NEG_INFINITY), S::splat(f32::INFINITY));
            let mut c = 0;
            while c < columns {
                let acc = tile_packed::<S, E, MR>(self.words, a, b.add(c * self.words));
                let bias = self.pairs.column_bias(j0 + c);
                for v in 0..NV {
                    let column_bias = if bias.is_null() { S::splat(0.0) } else { S::load(bias.add(v * S::W)) };
                    for (r, lanes) in acc.iter().enumerate() {
                        let s = S::fma(lanes[v], unit, S::add(column_bias, S::splat(row_bias[r])));
                        high = S::max(high, s);
                        low = S::min(low, s);
                        S::store(strip.add(r * stride + c + v * S::W), s);
                    }
                }
                c += nr;
            }
            self.pairs.mask::<S, MR>(strip, stride, i0, (j0, columns));
            (S::max_lane(high), S::min_lane(low))
        }
    }
}

impl Stash {
    /// Keep a strip of `rows` x `columns` scores.
    ///
    /// # Safety
    /// `S` is available, and both sides hold what is copied.
    #[inline(always)]
    pub unsafe fn keep<S: Simd>(self, strip: *const f32, stride: usize, rows: usize, columns: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..rows {
                let (from, to) = (strip.add(r * stride), self.at.add(r * self.stride));
                let whole = columns / S::W * S::W;
                for c in (0..whole).step_by(S::W) {
                    S::store_f16(to.add(c), S::load(from.add(c)));
                }
                for c in whole..columns {
                    *to.add(c) = half::f16::from_f32(*from.add(c)).to_bits();
                }
            }
        }
    }

    /// Read back what [`Stash::keep`] kept, with everything past `rows` x `columns` left out.
    ///
    /// # Safety
    /// As for [`Stash::keep`]; the strip has `all_rows` rows and whole vectors of columns.
    #[inline(always)]
    pub unsafe fn read<S: Simd>(
        self,
        strip: *mut f32,
        stride: usize,
        (rows, all_rows): (usize, usize),
        columns: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let least = S::splat(LEFT_OUT);
            for r in 0..all_rows {
                let to = strip.add(r * stride);
                let live = if r < rows { columns } else { 0 };
                let from = self.at.wrapping_add(r * self.stride);
                let whole = live / S::W * S::W;
                for c in (0..whole).step_by(S::W) {
                    S::store(to.add(c), S::max(S::load_f16(from.add(c)), least));
                }
                for c in whole..live {
                    *to.add(c) = half::f16::from_bits(*from.add(c)).to_f32().max(LEFT_OUT);
                }
                for c in live..columns.next_multiple_of(NV * S::W) {
                    *to.add(c) = LEFT_OUT;
                }
            }
        }
    }
}
