//! Other coordinates for a first pass: along orthogonal directions, of which the leading ones exclude most pairs alone.
//!
//! Products are the same along any orthogonal directions. Where a few of them, the principal ones of the items, carry most of the vectors'
//! lengths, `x·y <= x_L·y_L + ‖x_T‖ ‖y_T‖` (Cauchy–Schwarz), L the leading ones and T the tail, is below the threshold of most pairs: the pass
//! multiplies the codes of L and adds the lengths of the tails as one more coordinate in f32; the few pairs that remain get the product of their
//! tails too, and are then what a pass over all codes would have left. Up to [`MAX_FLOATS`] directions before the leading ones, that of the
//! mean above all, are heavy coordinates, in f32 alone. Any orthogonal directions are right, whoever chose them.
//!
//! # What rotating loses
//! The rows of a matrix R of f32 are nearly orthonormal: with `δ >= ‖R Rᵀ − I‖`, summed in f64, the nearest orthogonal matrix Q is at most δ away [1].
//! Coordinates c = fl(R x) of chains as in step 3 of [`crate::quant`] are within `γ_n ‖r_t‖ ‖x‖` of R x each, so that
//!
//! ```text
//! ‖c − Q x‖ <= ε ‖x‖ + κ,  ε = δ + γ_n √D (1 + δ),  κ = D^1.5 2^-125 for products that underflow
//! |<c_x, c_y> − <x, y>| <= ε (2 + ε) (‖x‖ + κ / ε) (‖y‖ + κ / ε)
//! ```
//!
//! The proof there holds of c_x and c_y. The vector of their heavy coordinates and the tail's length is no longer than `(1 + ε) (‖x‖ + κ / ε)`, and
//! `‖x‖ + κ / ε` takes the place of ‖x_h‖: its error is the one above besides the 16 u there, whose 1 + ε the difference between 13 and 16
//! roundings covers. Taking the product of the lengths out again and adding the tails' codes are two more of these 13 roundings, where three
//! heavy coordinates instead of five leave two.
//!
//! [1] Higham, Functions of Matrices, lemma 8.17.

use crate::buffer::Buffer;
use crate::error::ArgumentError;
use crate::exact::{dot, dot_under};
use crate::hits::{Hit, Hits};
use crate::quant::{LARGE, Quantised, UNDERFLOW_F32, UP, gamma, quantise};
use crate::scan::{Columns, PANEL};
use crate::simd::bytes::dot_bytes;
use crate::simd::{Isa, Kernel, NV, Simd};
use crate::tile::{CHAIN, Matrix, pack_panels, tile_chained};

/// What δ has to be below.
const MOST_OFF: f64 = 1.0 / 1024.0;
/// Bytes that tails are padded to.
const LINE: usize = 64;
/// Tails that are multiplied at a time.
const AT_ONCE: usize = 4;

/// Directions that may be in f32 alone.
pub const MAX_FLOATS: usize = 2;

/// Orthogonal directions.
pub struct Directions {
    /// Row t is direction t.
    matrix: Vec<f32>,
    d: usize,
    floats: usize,
    leading: usize,
    panels: Buffer,
    /// ε
    error: f64,
}

/// ‖R Rᵀ − I‖, the Frobenius norm.
struct Defect<'a>(Matrix<'a, f32>);

impl Kernel for Defect<'_> {
    type Out = f64;
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> f64 {
        let mut squares = 0.0;
        for i in 0..self.0.rows {
            squares += (dot_under::<S>(self.0.row(i), self.0.row(i)) - 1.0).powi(2);
            for j in 0..i {
                squares += 2.0 * dot_under::<S>(self.0.row(i), self.0.row(j)).powi(2);
            }
        }
        squares.sqrt()
    }
}

impl Directions {
    /// The rows of `matrix`: the first `floats` are in f32 alone, the next `leading` lead.
    ///
    /// # Errors
    /// A matrix that is not square or whose rows are not orthonormal in f32; too many floats, no leading direction, or no other.
    pub fn new(matrix: Matrix<f32>, (floats, leading): (usize, usize), isa: Isa) -> Result<Directions, ArgumentError> {
        let d = matrix.columns;
        let wrong = |message: String| Err(ArgumentError::Value(message));
        if matrix.rows != d {
            return wrong(format!("directions: wanted a square matrix, got {} x {d}", matrix.rows));
        }
        if floats > MAX_FLOATS || leading == 0 || leading >= d.saturating_sub(floats) {
            return wrong(format!(
                "leading: wanted at most {MAX_FLOATS} and fewer than {d} in all, got {floats}, {leading}"
            ));
        }
        let d_f64 = d as f64;
        // The sums of f64 are off by d 2^-53 each, there are d² of them.
        let off = isa.run(Defect(matrix)) * UP + d_f64 * d_f64 / (1u64 << 52) as f64;
        if off.is_nan() || off >= MOST_OFF {
            return wrong("directions: wanted orthonormal rows".into());
        }
        let error = (off + gamma(d) * d_f64.sqrt() * (1.0 + off)) * UP;
        let mut panels = Buffer::new(d.next_multiple_of(PANEL) * d);
        // SAFETY: the panels hold all rows.
        unsafe { pack_panels(&matrix, 0, d, PANEL, panels.as_mut_ptr()) };
        Ok(Directions { matrix: matrix.data.to_vec(), d, floats, leading, panels, error })
    }

    /// As it came, row by row.
    pub fn matrix(&self) -> &[f32] {
        &self.matrix
    }

    /// How many are in f32 alone, and how many lead.
    pub fn sizes(&self) -> (usize, usize) {
        (self.floats, self.leading)
    }

    /// Coordinates that a pass adds in f32: the last is the tail's length.
    pub(crate) fn extra(&self) -> usize {
        self.floats + 1
    }

    /// Bytes of a tail's codes, padded with zeros.
    pub(crate) fn tail(&self) -> usize {
        (self.d - self.floats - self.leading).next_multiple_of(LINE)
    }

    /// Numbers between two rows of coordinates.
    pub(crate) fn stride(&self) -> usize {
        self.d.next_multiple_of(PANEL)
    }

    /// ε (2 + ε)
    pub(crate) fn error(&self) -> f64 {
        self.error * (2.0 + self.error) * UP
    }

    /// Codes of a row of coordinates but the floats, of a vector of length `norm`; the coordinates in f32 are left in `heavy`. Returns
    /// at least the length of these; infinity, and zeros, for a vector that may have overflown.
    #[inline(always)]
    pub(crate) fn quantise(
        &self,
        coordinates: &[f32],
        norm: f64,
        (codes, heavy): (&mut [u8], &mut [f64]),
    ) -> (Quantised, f64) {
        if norm >= LARGE {
            codes.fill(0);
            heavy.fill(0.0);
            return (Quantised { scale: 1.0, ..Quantised::default() }, f64::INFINITY);
        }
        let (floats, coded) = coordinates[..self.d].split_at(self.floats);
        let tail = &coded[self.leading..];
        heavy.iter_mut().zip(floats).for_each(|(to, c)| *to = f64::from(*c));
        heavy[self.floats] = dot(tail, tail).sqrt() * UP;
        let underflow = (self.d as f64).powf(1.5) * UNDERFLOW_F32 / self.error;
        (quantise(coded, codes), (norm + underflow) * UP)
    }

    /// Coordinates of rows `i0..i1` of `x`, [`Directions::stride`] apart. The workspace holds the rows and 16 more.
    ///
    /// # Safety
    /// `S` is available.
    #[inline(always)]
    pub(crate) unsafe fn rotate<S: Simd, const MR: usize>(
        &self,
        x: &Matrix<f32>,
        (i0, i1): (usize, usize),
        workspace: &mut Buffer,
        out: &mut [f32],
    ) {
        let (d, stride) = (self.d, self.stride());
        assert!(x.columns == d && out.len() >= (i1 - i0) * stride);
        let rows = workspace.as_mut_ptr();
        // SAFETY: the caller's promise; rows of `out` end with a panel.
        unsafe {
            pack_panels(x, i0, i1, MR, rows);
            for t in (0..stride).step_by(NV * S::W) {
                let panel = self.panels.as_ptr().add(t / PANEL * PANEL * d + t % PANEL);
                for (p, i) in (i0..i1).step_by(MR).enumerate() {
                    let tile = tile_chained::<S, f32, MR, CHAIN>(d, (rows.add(p * MR * d), 1, MR), (panel, PANEL));
                    for (r, row) in tile.iter().enumerate().take(i1 - i) {
                        for (v, lanes) in row.iter().enumerate() {
                            let at = (i - i0 + r) * stride + t + v * S::W;
                            S::store(out.as_mut_ptr().add(at), *lanes);
                        }
                    }
                }
            }
        }
    }
}

/// What a pass over the leading directions left out of a pair of rows and columns.
#[derive(Clone, Copy)]
pub struct Tails<'a> {
    /// Codes of the rows' tails, signed, `width` bytes each.
    pub rows: &'a [i8],
    /// What takes the 128 out of the columns' bytes: −128 Σ of the codes, for each row.
    pub starts: &'a [i32],
    /// Codes of the tails of packed columns, raised by 128, from the first column.
    pub columns: *const u8,
    /// A multiple of a cache line.
    pub width: usize,
}

impl Tails<'_> {
    /// Values of a tile, upper bounds so far, become those of all codes; they remain where they still pass. `lengths`: the rows' coordinates
    /// in f32, of which they are the last.
    ///
    /// # Safety
    /// `S` is there; the tile's rows begin with `row` of these, its columns with `column` of all, and have tails.
    #[inline(always)]
    pub(crate) unsafe fn complete<S: Simd>(
        &self,
        hits: &mut Hits,
        (row, column): (usize, usize),
        (lengths, of): (&Matrix<f32>, &Columns),
        passes: impl Fn(Hit) -> bool,
    ) {
        let (factor, first, h) = (of.factor.unwrap_or_default(), column - of.from, lengths.columns);
        let (count, mut kept) = (hits.count(), 0);
        for group in (0..count).step_by(AT_ONCE) {
            // SAFETY: the caller's promise. The last group is filled up with the last hit, which is not looked at again.
            unsafe {
                let at: [Hit; AT_ONCE] = std::array::from_fn(|t| hits.get((group + t).min(count - 1)));
                let sums = dot_bytes::<S, AT_ONCE>(
                    at.map(|hit| self.columns.add((first + hit.column) * self.width)),
                    at.map(|hit| self.rows.as_ptr().add((row + hit.row) * self.width)),
                    self.width,
                );
                for (t, (mut hit, sum)) in at.into_iter().zip(sums).enumerate().take(count - group) {
                    let (i, j) = (row + hit.row, first + hit.column);
                    let theirs = *of.heavy.add(j / PANEL * PANEL * h + (h - 1) * PANEL + j % PANEL);
                    let ours = *lengths.data.get_unchecked(i * h + h - 1);
                    let sum = (sum + *self.starts.get_unchecked(i)) as f32;
                    hit.value = hit.value - ours * theirs + *factor.get_unchecked(of.from + j) * sum;
                    if passes(hit) {
                        hits.keep(group + t, kept, hit.value);
                        kept += 1;
                    }
                }
            }
        }
        hits.truncate(kept);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::exact::Metric;
    use crate::store::{ExactStore, FirstPass};

    /// Rows of a rotation of d coordinates: products of plane rotations in f64, rounded.
    pub(crate) fn orthogonal(d: usize) -> Vec<f32> {
        let mut rows: Vec<f64> = (0..d * d).map(|at| f64::from(u8::from(at / d == at % d))).collect();
        for (turn, (i, j)) in (0..d).flat_map(|i| (0..i).map(move |j| (i, j))).enumerate() {
            let (sin, cos) = (1.0 + 0.37 * turn as f64).sin_cos();
            for t in 0..d {
                let (a, b) = (rows[i * d + t], rows[j * d + t]);
                (rows[i * d + t], rows[j * d + t]) = (cos * a - sin * b, sin * a + cos * b);
            }
        }
        rows.into_iter().map(|v| v as f32).collect()
    }

    #[test]
    fn only_square_matrices_of_orthonormal_rows_are_directions() {
        let (d, good) = (20, orthogonal(20));
        let made = |matrix: &[f32], rows, sizes| {
            Directions::new(Matrix::new(matrix, rows, matrix.len() / rows), sizes, Isa::best()).is_ok()
        };
        assert!(made(&good, d, (0, 1)) && made(&good, d, (2, d - 3)));
        for sizes in [(0, 0), (0, d), (2, d - 2), (3, 4), (usize::MAX, 4), (1, usize::MAX)] {
            assert!(!made(&good, d, sizes), "{sizes:?}");
        }
        assert!(!made(&good[d..], d - 1, (0, 1)));
        for value in [f32::NAN, f32::INFINITY, 2.0] {
            let mut bad = good.clone();
            bad[27] = value;
            assert!(!made(&bad, d, (0, 1)), "{value}");
        }
    }

    #[test]
    fn coordinates_are_as_close_as_the_error_says() {
        struct Rotate<'a>(&'a Directions, Matrix<'a, f32>, &'a mut [f32]);
        impl Kernel for Rotate<'_> {
            type Out = ();
            #[inline(always)]
            unsafe fn run<S: Simd, const MR: usize>(self) {
                let mut workspace = Buffer::new((self.1.rows + 16) * self.1.columns);
                // SAFETY: the caller's promise.
                unsafe { self.0.rotate::<S, MR>(&self.1, (1, self.1.rows), &mut workspace, self.2) }
            }
        }
        for d in [5, 31, 64, 150] {
            let (rows, matrix) = (19, orthogonal(d));
            let x: Vec<f32> = (0..rows * d).map(|at| (at as f32 * 0.7).sin() * 1e3).collect();
            let x = Matrix::new(&x, rows, d);
            for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                let directions = Directions::new(Matrix::new(&matrix, d, d), (1, 2), isa).unwrap();
                let mut out = vec![0.0; (rows - 1) * directions.stride()];
                isa.run(Rotate(&directions, x, &mut out));
                for i in 1..rows {
                    let row = &out[(i - 1) * directions.stride()..][..d];
                    let off = |t: usize| f64::from(row[t]) - dot(&matrix[t * d..][..d], x.row(i));
                    let off = (0..d).map(|t| off(t).powi(2)).sum::<f64>().sqrt();
                    let norm = dot(x.row(i), x.row(i)).sqrt();
                    assert!(off <= directions.error * norm, "{isa:?} {d}: {off} of {norm}");
                }
            }
        }
    }

    #[test]
    fn the_length_of_a_tail_is_needed_in_full() {
        // An item of a later block that lies in the tail alone: only its length says that it is the best.
        let (n, d) = (1024, 64);
        let mut y: Vec<f32> = (0..n * d).map(|at| if at % d == 3 { 0.5 } else { 0.0 }).collect();
        y[900 * d + 3] = 0.0;
        y[900 * d + 60] = 0.6;
        let x: Vec<f32> = (0..d).map(|t| if t == 3 || t == 60 { 1.0 } else { 0.0 }).collect();
        let identity: Vec<f32> = (0..d * d).map(|at| if at / d == at % d { 1.0 } else { 0.0 }).collect();
        let best = |shorten: bool| {
            let directions = Directions::new(Matrix::new(&identity, d, d), (0, 32), Isa::best()).unwrap();
            let (y, pass) = (Matrix::new(&y, n, d), FirstPass::Along(directions));
            let mut store = ExactStore::new(y, Metric::InnerProduct, None, None, pass, 1, Isa::best()).unwrap();
            if shorten {
                store.shorten_tails(0.5);
            }
            store.search(Matrix::new(&x, 1, d), 1, None, None, 1, Isa::best()).unwrap().ids[0]
        };
        assert_eq!(best(false), 900);
        assert_ne!(best(true), 900);
    }
}
