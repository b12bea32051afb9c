//! What the units of a gradient share, and what a thread keeps between them.

use super::{CHUNK, STRIDE};
use crate::buffer::{Buffer, Shared};
use crate::logsum::LogSum;
use crate::strip::{STRIP, Scoring};
use crate::tile::{Elem, Matrix};

/// How P comes out of a strip.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    Row,
    Column,
    Both,
    /// Scores first, P when the rows are complete.
    Nll,
    Softplus,
}

/// Everything that the units share. All pointers are to whole arrays; units own the parts they write.
pub(super) struct Job<'a, E> {
    pub(super) x: Matrix<'a, E>,
    pub(super) y: Matrix<'a, E>,
    pub(super) scoring: Scoring<'a>,
    /// K: the prefixes, or 1. What is said to have `[prefix]` has it first, even where that is 1.
    pub(super) count: usize,
    /// (first coordinate, coordinates, prefix) of the panels of dX and dY.
    pub(super) panels: Vec<(usize, usize, usize)>,
    pub(super) form: Form,
    pub(super) want_x: bool,
    pub(super) want_y: bool,
    pub(super) chunk: usize,
    /// `[prefix][row]` and `[prefix][column]`, from one prefix to the next:
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
    pub(super) row_lse: Shared<f32>,
    pub(super) row_grad: Shared<f32>,
    pub(super) column_lse: Shared<f32>,
    pub(super) column_grad: Shared<f32>,
    /// Added to P on the diagonal, `[prefix]` of `diagonal` elements.
    pub(super) diagonal_grad: Shared<f32>,
    pub(super) diagonal: usize,
    pub(super) stash: *mut u16,
    /// P (or scores), `[block][prefix][row][p_stride]`.
    pub(super) p: Shared<f32>,
    pub(super) p_stride: usize,
    pub(super) x_panels: Shared<f32>,
    pub(super) x_columns: Shared<f32>,
    pub(super) y_panels: Shared<f32>,
    pub(super) y_columns: Shared<f32>,
    /// Words from one panel of columns to the next.
    pub(super) x_stride: usize,
    pub(super) y_stride: usize,
    /// f32 sums of dX (rows of the chunk, or all rows) and dY (columns of the superblock), `padded` columns each.
    pub(super) dx: Shared<f32>,
    pub(super) dy: Shared<f32>,
    pub(super) padded: usize,
    pub(super) y_bias: Shared<f32>,
    /// `[block][prefix][row]`: partial row results (LogSum, softplus sums, bias gradients, P · s).
    pub(super) parts: Shared<LogSum>,
    pub(super) row_parts: Shared<f64>,
    pub(super) bias_parts: Shared<f64>,
    pub(super) row_dot_parts: Shared<f64>,
    /// `[prefix][row of y]`: Σ_i P · s.
    pub(super) column_dot: Shared<f64>,
}

// SAFETY: the raw pointer is only read; the others are written in disjoint parts.
unsafe impl<E: Elem> Sync for Job<'_, E> {}

/// What a thread keeps between units.
pub(super) struct Scratch {
    /// `[prefix]` of strips.
    pub(super) strip: Buffer,
    /// Running inner products of prefixes.
    pub(super) dot: Buffer,
    /// bfloat16 P in pairs of rows, for dY, `[prefix]`.
    pub(super) pairs: Buffer,
    pub(super) signs: Buffer,
    /// `[prefix]` of sums of columns.
    pub(super) columns: Buffer,
}

/// Words of a strip, and of all rows of a chunk in pairs.
pub(super) const STRIP_WORDS: usize = 16 * STRIDE;
pub(super) const PAIRS_WORDS: usize = CHUNK / 2 * STRIDE;

#[derive(Clone, Copy)]
pub(super) struct Place {
    /// First row of the chunk, and one past its last.
    pub(super) i0: usize,
    pub(super) i1: usize,
    /// Where row i0 stands in the sums of dX.
    pub(super) dx_row: usize,
    /// First column of the superblock, and one past its last.
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Scratch {
    pub(super) fn new(count: usize, bf16: bool) -> Scratch {
        Scratch {
            strip: Buffer::new(count * STRIP_WORDS),
            dot: Buffer::new(STRIP_WORDS),
            pairs: Buffer::new(if bf16 { count * PAIRS_WORDS } else { 0 }),
            signs: Buffer::new(STRIDE),
            columns: Buffer::new(count * STRIDE),
        }
    }
}

impl<E> Job<'_, E> {
    /// Whether no pair of the chunk's rows and a block's columns takes part: its P is not made, and not read.
    #[inline(always)]
    pub(super) fn nothing_in(&self, place: Place, block: usize) -> bool {
        self.scoring.pairs.none_from(place.i0, place.to.min(place.from + (block + 1) * STRIP))
    }

    /// What a block without pairs adds to its rows: nothing, and not what the chunk before left there.
    pub(super) unsafe fn clear_parts(&self, block: usize) {
        let rows = self.count * self.chunk;
        for at in block * rows..(block + 1) * rows {
            // SAFETY: the caller's promise; what is not null holds all blocks.
            unsafe {
                if self.form == Form::Nll {
                    *self.parts.at(at) = LogSum::EMPTY;
                }
                for parts in [self.row_parts, self.bias_parts, self.row_dot_parts] {
                    if !parts.is_null() {
                        *parts.at(at) = 0.0;
                    }
                }
            }
        }
    }
}
