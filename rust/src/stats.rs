//! What the columns of a similarity matrix look like from a bank: log-sum-exp at several scales, the largest scores, mean and variance.
//!
//! Rows here are the vectors that statistics are wanted of; the bank passes by in strips.

use crate::buffer::{Buffer, Shared};
use crate::error::ArgumentError;
use crate::largest;
use crate::moments::{Moments, Stats};
use crate::pairs::{PairArgs, Pairs};
use crate::simd::{Isa, Kernel, Simd, tile_shape};
use crate::strip::{STRIP, Scoring, scores_are_finite};
use crate::team;
use crate::tile::{Elem, Matrix, pack_panels};

/// Rows of a unit; a multiple of every tile's rows.
const ROWS: usize = 48;
const STRIDE: usize = STRIP + 16;
/// Columns packed at a time.
const PACKED_COLUMNS: usize = 24 * STRIP;

/// Rows `i0..` of y against packed columns `j0..j1` of the bank.
struct Unit<'a, E> {
    y: Matrix<'a, E>,
    scoring: &'a Scoring<'a>,
    i0: usize,
    columns: (usize, usize),
    packed: *const f32,
    betas: &'a [f32],
    panels: &'a mut Buffer,
    strip: &'a mut Buffer,
    room: &'a mut [f32],
    moments: &'a mut [Moments],
}

impl<E: Elem> Kernel for Unit<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let k = self.scoring.words;
        let (panels, strip) = (self.panels.as_mut_ptr(), self.strip.as_mut_ptr());
        let i1 = self.i0 + self.moments.len();
        // SAFETY: the buffers hold a unit's rows and a strip; the packed columns are these.
        unsafe {
            pack_panels(&self.y, self.i0, i1, MR, panels);
            for j0 in (self.columns.0..self.columns.1).step_by(STRIP) {
                let live = STRIP.min(self.columns.1 - j0);
                let b = self.packed.add((j0 - self.columns.0) * k);
                for (p, i) in (self.i0..i1).step_by(MR).enumerate() {
                    self.scoring.strip::<S, E, MR>((panels.add(p * MR * k), i), (b, j0, live), strip, STRIDE);
                    for r in 0..MR.min(i1 - i) {
                        let scores = std::slice::from_raw_parts(strip.add(r * STRIDE), live);
                        self.moments[i - self.i0 + r].add::<S>(scores, self.betas, self.room);
                    }
                }
            }
        }
    }
}

/// Statistics of `<bank_i, y_j>` over i, for every row j of y; `k` scores are kept. The same bits for any number of threads.
///
/// # Errors
/// Values that are not finite or whose scores might not be, more than 2^32 rows in the bank, more results than memory.
///
/// # Panics
/// When bank and y differ in their number of columns.
pub fn pair_stats<E: Elem>(
    bank: Matrix<E>,
    y: Matrix<E>,
    betas: &[f32],
    k: usize,
    threads: usize,
    isa: Isa,
) -> Result<Stats, ArgumentError> {
    assert_eq!(bank.columns, y.columns);
    let (rows, n, words) = (y.rows, bank.rows, y.words());
    if n >= u32::MAX as usize {
        return Err(ArgumentError::Value(format!("bank: wanted fewer than 2^32 rows, got {n}")));
    }
    if !scores_are_finite(&bank, &y, 1.0) {
        return Err(ArgumentError::Value("bank, y: wanted finite values and scores".into()));
    }
    let pairs = Pairs::new(&PairArgs::default(), rows, n, threads, isa)?;
    let scoring = Scoring::new(&y, 1.0, &pairs, None);
    let (_, nr) = tile_shape(isa);
    let width = PACKED_COLUMNS.min(n);
    let mut packed = Buffer::new(width.next_multiple_of(nr) * words);
    let packed = packed.shared();
    let walk = |moments: Shared<Moments>, team: &team::Team| {
        let (mut panels, mut strip) = (Buffer::new(ROWS * words), Buffer::new(16 * STRIDE));
        let mut room = largest::room(k.min(n), STRIP);
        for from in (0..n).step_by(PACKED_COLUMNS) {
            let to = n.min(from + PACKED_COLUMNS);
            team.for_each((to - from).div_ceil(STRIP), |u| {
                let j0 = from + u * STRIP;
                // SAFETY: units write disjoint parts, and every phase ends with all threads waiting.
                unsafe { pack_panels(&bank, j0, to.min(j0 + STRIP), nr, packed.at((j0 - from) * words)) }
            });
            team.for_each(rows.div_ceil(ROWS), |u| {
                let i0 = u * ROWS;
                // SAFETY: as above.
                let (moments, packed) =
                    unsafe { (std::slice::from_raw_parts_mut(moments.at(i0), ROWS.min(rows - i0)), packed.at(0)) };
                isa.run(Unit {
                    y,
                    scoring: &scoring,
                    i0,
                    columns: (from, to),
                    packed,
                    betas,
                    panels: &mut panels,
                    strip: &mut strip,
                    room: &mut room,
                    moments,
                });
            });
        }
    };
    Stats::collect((rows, n), betas, k, |moments| team::run(threads, |team| walk(moments, team)))
}
