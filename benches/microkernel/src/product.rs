//! X Yᵀ from packed panels, in the order in which the engine's reductions walk: rows packed by 192, strips of 384 columns.

use crate::data::Dense;
use simtile_core::buffer::Buffer;
use simtile_core::simd::{Isa, Kernel, NV, Simd, tile_shape};
use simtile_core::strip::STRIP;
use simtile_core::tile::{Acc, Elem, Matrix, pack_panels, tile, tile_packed};
use std::hint::black_box;

/// Rows packed together, as in the engine.
const ROWS: usize = 192;

/// What happens to a finished tile, and what is packed within the call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nothing, both operands packed beforehand: the tile products alone.
    Nothing,
    /// Nothing, both operands packed in the call, like a reduction without its epilogue.
    Packed,
    /// Stored to C, both operands packed in the call: what a matrix multiplication of a crate does.
    Stored,
}

/// Operands and workspaces of C = X Yᵀ, with sides that are multiples of every tile.
pub struct Product<'a, E> {
    x: Matrix<'a, E>,
    y: Matrix<'a, E>,
    x_panels: Buffer,
    y_panels: Buffer,
    c: Buffer,
    isa: Isa,
}

impl<'a, E: Elem> Product<'a, E> {
    /// Packs both operands.
    ///
    /// # Panics
    /// When a side is not a multiple of 384.
    pub fn new(x: &'a Dense<E>, y: &'a Dense<E>, isa: Isa) -> Product<'a, E> {
        let (x, y) = (x.matrix(), y.matrix());
        assert!(x.rows.is_multiple_of(STRIP) && y.rows.is_multiple_of(STRIP), "sides: multiples of {STRIP}");
        let k = x.words();
        let (x_panels, y_panels) = (Buffer::new(x.rows * k), Buffer::new(y.rows * k));
        let mut product = Product { x, y, x_panels, y_panels, c: Buffer::new(x.rows * y.rows), isa };
        let (mr, nr) = tile_shape(isa);
        // SAFETY: the panels hold all rows, which are whole tiles.
        unsafe {
            pack_panels(&x, 0, x.rows, mr, product.x_panels.as_mut_ptr());
            pack_panels(&y, 0, y.rows, nr, product.y_panels.as_mut_ptr());
        }
        product
    }

    /// All of C once.
    pub fn run(&mut self, finish: Finish) {
        let walk = Walk {
            x: self.x,
            y: self.y,
            x_panels: self.x_panels.as_mut_ptr(),
            y_panels: self.y_panels.as_mut_ptr(),
            c: self.c.as_mut_ptr(),
            finish,
        };
        self.isa.run(walk);
    }

    /// Element (i, j) of the C that [`Finish::Stored`] left; bytes have integer sums.
    pub fn stored(&mut self, i: usize, j: usize) -> f64 {
        // SAFETY: C holds rows * rows words.
        let word = unsafe { *self.c.as_mut_ptr().add(i * self.y.rows + j) };
        if exact::<E>() { f64::from(word.to_bits() as i32) } else { f64::from(word) }
    }
}

/// Whether sums are integers, which need no shorter chains.
fn exact<E: Elem>() -> bool {
    E::PER_WORD == 4
}

struct Walk<'a, E> {
    x: Matrix<'a, E>,
    y: Matrix<'a, E>,
    x_panels: *mut f32,
    y_panels: *mut f32,
    c: *mut f32,
    finish: Finish,
}

impl<E: Elem> Kernel for Walk<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let (k, n, nr) = (self.x.words(), self.y.rows, NV * S::W);
        let packed_here = self.finish != Finish::Nothing;
        // SAFETY: panels and C hold whole tiles of both operands.
        unsafe {
            if packed_here {
                pack_panels(&self.y, 0, n, nr, self.y_panels);
            }
            for i0 in (0..self.x.rows).step_by(ROWS) {
                let panels = self.x_panels.add(i0 * k);
                if packed_here {
                    pack_panels(&self.x, i0, i0 + ROWS, MR, panels);
                }
                for j0 in (0..n).step_by(STRIP) {
                    for i in (0..ROWS).step_by(MR) {
                        for j in (j0..j0 + STRIP).step_by(nr) {
                            let (a, b) = (panels.add(i * k), self.y_panels.add(j * k));
                            let acc: Acc<S, MR> = if exact::<E>() {
                                tile::<S, E, MR>(k, (a, 1, MR), (b, nr), [[S::splat(0.0); NV]; MR])
                            } else {
                                tile_packed::<S, E, MR>(k, a, b)
                            };
                            if self.finish == Finish::Stored {
                                for (r, lanes) in acc.iter().enumerate() {
                                    let row = self.c.add((i0 + i + r) * n + j);
                                    for (v, lane) in lanes.iter().enumerate() {
                                        S::store(row.add(v * S::W), *lane);
                                    }
                                }
                            } else {
                                // Without it the compiler removes the product.
                                black_box(&acc);
                            }
                        }
                    }
                }
            }
        }
    }
}
