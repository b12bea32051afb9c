//! Pairs above a limit of their row are left out: by their own score, or by the inner product of a second pair of features, the guide.
//!
//! With a guide, a second tile is multiplied beside the tile of scores, while both are in the cache (Solatorio, GISTEmbed,
//! arXiv:2402.16829). The guide is a constant: it has no gradient.

use crate::buffer::Buffer;
use crate::error::{ArgumentError, length};
use crate::pairs::LEFT_OUT;
use crate::simd::{Isa, NV, Simd, tile_shape};
use crate::team;
use crate::tile::{Bf16, Elem, Matrix, pack_panels, tile_packed};

/// Features (M, G) and (N, G), whose type need not be that of the scores'.
#[derive(Clone, Copy)]
pub enum GuideArgs<'a> {
    /// float32.
    F32(Matrix<'a, f32>, Matrix<'a, f32>),
    /// bfloat16.
    Bf16(Matrix<'a, Bf16>, Matrix<'a, Bf16>),
}

/// The limits of all rows, and the guide in panels.
pub(crate) struct Limits {
    /// Readable past the last row.
    threshold: Vec<f32>,
    guide: Option<Guide>,
}

/// Both sides packed whole: strips address them by the row and the column they start at.
struct Guide {
    words: usize,
    bf16: bool,
    x: Buffer,
    y: Buffer,
}

/// Rows packed by one unit; a multiple of every tile's rows and columns.
const ROWS: usize = 192;

impl Limits {
    /// # Errors
    /// A guide without a threshold, and lengths that do not fit an (m, n) matrix.
    ///
    /// # Panics
    /// When the two sides of a guide differ in their number of columns.
    pub(crate) fn new(
        threshold: Option<&[f32]>,
        guide: Option<GuideArgs>,
        (m, n): (usize, usize),
        threads: usize,
        isa: Isa,
    ) -> Result<Option<Limits>, ArgumentError> {
        let Some(threshold) = threshold else {
            return if guide.is_none() { Ok(None) } else { Err(ArgumentError::Pair("threshold, guide")) };
        };
        length("threshold", m, threshold.len())?;
        let guide = match guide {
            None => None,
            Some(GuideArgs::F32(x, y)) => Some(Guide::pack(x, y, (m, n), threads, isa)?),
            Some(GuideArgs::Bf16(x, y)) => Some(Guide::pack(x, y, (m, n), threads, isa)?),
        };
        let mut threshold = threshold.to_vec();
        threshold.resize(m + 16, f32::INFINITY);
        Ok(Some(Limits { threshold, guide }))
    }

    /// [`LEFT_OUT`] over the scores of a strip of `MR` rows from `i0` and `columns` from `j0` that are above their row's limit.
    ///
    /// # Safety
    /// `S` is available; the strip has `MR` rows of `stride` words; `i0` is a multiple of `MR`, `j0` and `columns` of a tile's columns.
    #[inline(always)]
    pub(crate) unsafe fn apply<S: Simd, const MR: usize>(
        &self,
        strip: *mut f32,
        stride: usize,
        i0: usize,
        (j0, columns): (usize, usize),
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match &self.guide {
                None => {
                    let out = S::splat(LEFT_OUT);
                    for r in 0..MR {
                        let (row, limit) = (strip.add(r * stride), S::splat(self.threshold[i0 + r]));
                        for c in (0..columns).step_by(S::W) {
                            let s = S::load(row.add(c));
                            S::store(row.add(c), S::select_gt(s, limit, out, s));
                        }
                    }
                }
                Some(guide) if guide.bf16 => self.guided::<S, Bf16, MR>(guide, strip, stride, i0, (j0, columns)),
                Some(guide) => self.guided::<S, f32, MR>(guide, strip, stride, i0, (j0, columns)),
            }
        }
    }

    #[inline(always)]
    unsafe fn guided<S: Simd, E: Elem, const MR: usize>(
        &self,
        guide: &Guide,
        strip: *mut f32,
        stride: usize,
        i0: usize,
        (j0, columns): (usize, usize),
    ) {
        let (k, nr) = (guide.words, NV * S::W);
        // SAFETY: the caller's promise; the panels cover all rows and columns.
        unsafe {
            let out = S::splat(LEFT_OUT);
            let (a, b) = (guide.x.as_ptr().add(i0 * k), guide.y.as_ptr().add(j0 * k));
            for c in (0..columns).step_by(nr) {
                let acc = tile_packed::<S, E, MR>(k, a, b.add(c * k));
                for (r, lanes) in acc.iter().enumerate() {
                    let limit = S::splat(self.threshold[i0 + r]);
                    for (v, g) in lanes.iter().enumerate() {
                        let at = strip.add(r * stride + c + v * S::W);
                        S::store(at, S::select_gt(*g, limit, out, S::load(at)));
                    }
                }
            }
        }
    }
}

impl Guide {
    fn pack<E: Elem>(
        x: Matrix<E>,
        y: Matrix<E>,
        (m, n): (usize, usize),
        threads: usize,
        isa: Isa,
    ) -> Result<Guide, ArgumentError> {
        assert_eq!(x.columns, y.columns);
        length("guide_x", m, x.rows)?;
        length("guide_y", n, y.rows)?;
        let (words, (mr, nr)) = (x.words(), tile_shape(isa));
        let mut packed = [Buffer::new(m.next_multiple_of(mr) * words), Buffer::new(n.next_multiple_of(nr) * words)];
        let [to_x, to_y] = packed.each_mut().map(Buffer::shared);
        let units = m.div_ceil(ROWS);
        team::run(threads, |team| {
            team.for_each(units + n.div_ceil(ROWS), |u| {
                let (side, to, u, r) = if u < units { (&x, to_x, u, mr) } else { (&y, to_y, u - units, nr) };
                let i0 = u * ROWS;
                // SAFETY: units write their own rows.
                unsafe { pack_panels(side, i0, side.rows.min(i0 + ROWS), r, to.at(i0 * words)) }
            });
        });
        let [x, y] = packed;
        Ok(Guide { words, bf16: E::PER_WORD == 2, x, y })
    }
}
