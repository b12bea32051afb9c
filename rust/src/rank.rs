//! How many columns beat a row's target: in-batch accuracy and recall without logits.

use crate::buffer::{Buffer, Shared};
use crate::error::{ArgumentError, length};
use crate::pairs::{PairArgs, Pairs};
use crate::simd::{Isa, Kernel, NV, Simd, tile_shape};
use crate::stop::{checkpoint, filled};
use crate::strip::{STRIP, Scoring, scores_are_finite};
use crate::team;
use crate::tile::{Elem, Matrix, pack_panels};

/// Rows of a unit; a multiple of every tile's rows.
const ROWS: usize = 96;
const STRIDE: usize = STRIP + 16;

/// Per row: kept pairs that score above the target, and exactly at it.
pub struct Ranks {
    /// Above.
    pub greater: Vec<i64>,
    /// Equal. The own pair counts, if it is kept.
    pub equal: Vec<i64>,
}

struct Unit<'a, E> {
    x: Matrix<'a, E>,
    y: Matrix<'a, E>,
    scoring: &'a Scoring<'a>,
    own: &'a Scoring<'a>,
    target: Option<&'a [f32]>,
    i0: usize,
    buffers: &'a mut [Buffer; 3],
    greater: *mut i64,
    equal: *mut i64,
}

impl<E: Elem> Kernel for Unit<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let (m, n, k, nr) = (self.x.rows, self.y.rows, self.scoring.words, NV * S::W);
        let [panels, packed, strip] = self.buffers;
        let (panels, packed, strip) = (panels.as_mut_ptr(), packed.as_mut_ptr(), strip.as_mut_ptr());
        let i1 = m.min(self.i0 + ROWS);
        let mut targets = [f32::INFINITY; ROWS + 16];
        // SAFETY: the buffers hold a unit's rows and a strip's columns; this unit owns rows i0..i1 of the counts.
        unsafe {
            pack_panels(&self.x, self.i0, i1, MR, panels);
            if let Some(t) = self.target {
                targets[..i1 - self.i0].copy_from_slice(&t[self.i0..i1]);
            } else {
                // The same arithmetic as below, so that a score can equal its own target.
                for (p, i) in (self.i0..i1).step_by(MR).enumerate() {
                    let j0 = i / nr * nr;
                    let columns = (i + MR - j0).next_multiple_of(nr).min(n - j0);
                    pack_panels(&self.y, j0, j0 + columns, nr, packed);
                    self.own.strip::<S, E, MR>((panels.add(p * MR * k), i), (packed, j0, columns), strip, STRIDE);
                    for r in 0..MR.min(i1 - i) {
                        targets[i - self.i0 + r] = *strip.add(r * STRIDE + i + r - j0);
                    }
                }
            }
            for j0 in (0..n).step_by(STRIP) {
                checkpoint();
                let columns = STRIP.min(n - j0);
                pack_panels(&self.y, j0, j0 + columns, nr, packed);
                for (p, i) in (self.i0..i1).step_by(MR).enumerate() {
                    self.scoring.strip::<S, E, MR>((panels.add(p * MR * k), i), (packed, j0, columns), strip, STRIDE);
                    for r in 0..MR.min(i1 - i) {
                        let target = S::splat(targets[i - self.i0 + r]);
                        let (mut greater, mut not_less) = (0, 0);
                        for c in (0..columns.next_multiple_of(nr)).step_by(S::W) {
                            let s = S::load(strip.add(r * STRIDE + c));
                            greater += i64::from(S::gt(s, target).count_ones());
                            not_less += S::W as i64 - i64::from(S::gt(target, s).count_ones());
                        }
                        *self.greater.add(i + r) += greater;
                        *self.equal.add(i + r) += not_less - greater;
                    }
                }
            }
        }
    }
}

/// Ranks of the pairs' own partners (`target` None, needs N >= M) or of given scores.
///
/// # Errors
/// Lengths that do not fit, see also [`Pairs::new`]; a value that is not finite, because ranks have no NaN.
///
/// # Panics
/// When x and y differ in their number of columns.
pub fn pair_rank<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    scale: f32,
    target: Option<&[f32]>,
    pairs: &PairArgs,
    threads: usize,
    isa: Isa,
) -> Result<Ranks, ArgumentError> {
    assert_eq!(x.columns, y.columns);
    let (m, n, k) = (x.rows, y.rows, x.words());
    match target {
        Some(t) => length("target", m, t.len())?,
        None if n < m => return Err(ArgumentError::Partner { m, n }),
        None => {}
    }
    let all = PairArgs { x_bias: pairs.x_bias, y_bias: pairs.y_bias, ..PairArgs::default() };
    let own = Pairs::new(&all, m, n, threads, isa)?;
    let pairs = Pairs::new(pairs, m, n, threads, isa)?;
    if !(scores_are_finite(&x, &y, scale) && pairs.finite() && target.is_none_or(|t| t.iter().all(|t| !t.is_nan()))) {
        return Err(ArgumentError::Value("x, y, biases, scale, target: wanted finite values and scores".into()));
    }
    let (mut greater, mut equal) = (filled(0, m), filled(0, m));
    let (g, e) = (Shared::of(&mut greater), Shared::of(&mut equal));
    let (scoring, own) = (Scoring::new(&x, scale, &pairs, None), Scoring::new(&x, scale, &own, None));
    let (_, nr) = tile_shape(isa);
    team::run(threads, |team| {
        let mut buffers =
            [Buffer::new(ROWS * k), Buffer::new(STRIP.next_multiple_of(nr) * k), Buffer::new(16 * STRIDE)];
        team.for_each(m.div_ceil(ROWS), |u| {
            // SAFETY: units own the counts of their rows.
            let (greater, equal) = unsafe { (g.at(0), e.at(0)) };
            let buffers = &mut buffers;
            isa.run(Unit { x, y, scoring: &scoring, own: &own, target, i0: u * ROWS, buffers, greater, equal });
        });
    });
    Ok(Ranks { greater, equal })
}
