//! The scores themselves, for blocks that a caller goes through: a pair's bits depend on its two vectors alone, which a product
//! of BLAS does not promise (its last rows may be summed in another order).

use crate::buffer::{Buffer, Shared};
use crate::pairs::{PairArgs, Pairs};
use crate::simd::{Isa, Kernel, NV, Simd, tile_shape};
use crate::stop::checkpoint;
use crate::strip::{STRIP, Scoring};
use crate::team;
use crate::tile::{Elem, Matrix, pack_panels};

/// Rows of a unit; a multiple of every tile's rows.
const ROWS: usize = 96;
const STRIDE: usize = STRIP + 16;

struct Unit<'a, E> {
    x: Matrix<'a, E>,
    y: Matrix<'a, E>,
    scoring: &'a Scoring<'a>,
    i0: usize,
    buffers: &'a mut [Buffer; 3],
    out: *mut f32,
}

impl<E: Elem> Kernel for Unit<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let (m, n, k, nr) = (self.x.rows, self.y.rows, self.scoring.words, NV * S::W);
        let [panels, packed, strip] = self.buffers;
        let (panels, packed, strip) = (panels.as_mut_ptr(), packed.as_mut_ptr(), strip.as_mut_ptr());
        let i1 = m.min(self.i0 + ROWS);
        // SAFETY: the buffers hold a unit's rows and a strip's columns; this unit owns rows i0..i1 of the scores.
        unsafe {
            pack_panels(&self.x, self.i0, i1, MR, panels);
            for j0 in (0..n).step_by(STRIP) {
                checkpoint();
                let columns = STRIP.min(n - j0);
                pack_panels(&self.y, j0, j0 + columns, nr, packed);
                for (p, i) in (self.i0..i1).step_by(MR).enumerate() {
                    self.scoring.strip::<S, E, MR>((panels.add(p * MR * k), i), (packed, j0, columns), strip, STRIDE);
                    for r in 0..MR.min(i1 - i) {
                        let row = self.out.add((i + r) * n + j0);
                        row.copy_from_nonoverlapping(strip.add(r * STRIDE), columns);
                    }
                }
            }
        }
    }
}

/// s_ij = scale · <x_i, y_j> of all pairs into `out`, row by row.
///
/// # Panics
/// When x and y differ in their number of columns, or `out` has another size than their scores.
pub fn pair_scores<E: Elem>(x: Matrix<E>, y: Matrix<E>, scale: f32, out: &mut [f32], threads: usize, isa: Isa) {
    assert_eq!(x.columns, y.columns);
    assert_eq!(out.len(), x.rows * y.rows);
    let (m, k) = (x.rows, x.words());
    let pairs = Pairs::new(&PairArgs::default(), m, y.rows, threads, isa).expect("nothing is left out");
    let scoring = Scoring::new(&x, scale, &pairs, None);
    let shared = Shared::of(out);
    let (_, nr) = tile_shape(isa);
    team::run(threads, |team| {
        let mut buffers =
            [Buffer::new(ROWS * k), Buffer::new(STRIP.next_multiple_of(nr) * k), Buffer::new(16 * STRIDE)];
        team.for_each(m.div_ceil(ROWS), |u| {
            // SAFETY: units own the scores of their rows.
            let out = unsafe { shared.at(0) };
            isa.run(Unit { x, y, scoring: &scoring, i0: u * ROWS, buffers: &mut buffers, out });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_depends_on_its_two_vectors_alone() {
        let (m, n, d) = (101, 403, 133);
        let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
        let (x, y) = (wave(m * d, 0.7), wave(n * d, 1.3));
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            let mut all = vec![0.0; m * n];
            pair_scores(Matrix::new(&x, m, d), Matrix::new(&y, n, d), 2.0, &mut all, 2, isa);
            for (i, j) in [(0, 0), (37, 40), (95, 383), (96, 384), (100, 402)] {
                let dot: f64 = (0..d).map(|c| f64::from(x[i * d + c]) * f64::from(y[j * d + c])).sum();
                assert!((f64::from(all[i * n + j]) - 2.0 * dot).abs() < 1e-3, "{isa:?}");
                let mut one = [0.0];
                let (row, column) = (Matrix::new(&x[i * d..][..d], 1, d), Matrix::new(&y[j * d..][..d], 1, d));
                pair_scores(row, column, 2.0, &mut one, 1, isa);
                assert_eq!(one[0].to_bits(), all[i * n + j].to_bits(), "{isa:?}");
            }
        }
    }
}
