//! Vectors that are prepared for exact search: a copy, packed as 8-bit codes or in f32, with the bounds of what that loses.

use crate::buffer::{Buffer, Shared};
use crate::coder::Coder;
use crate::directions::Directions;
use crate::error::{ArgumentError, length};
use crate::exact::{Items, Metric};
pub use crate::file::section::Owner;
use crate::file::section::Section;
use crate::prepare::{Prepare, ROTATED};
use crate::quant::{MAX_COLUMNS, heavy};
use crate::scan::{BLOCK, Columns, PANEL, Terms};
use crate::simd::Isa;
use crate::stop::filled;
use crate::team;
use crate::tile::Matrix;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Vectors, packed for a first pass.
pub struct ExactStore {
    pub(crate) metric: Metric,
    pub(crate) n: usize,
    pub(crate) d: usize,
    pub(crate) vectors: Section<f32>,
    pub(crate) scale: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
    inverse: Vec<f64>,
    pub(crate) codes: bool,
    /// Coordinates that stay in f32 beside the codes.
    pub(crate) heavy: Vec<usize>,
    /// Those that the codes are along.
    pub(crate) directions: Option<Directions>,
    panels: Buffer,
    /// Codes that are not in the panels, raised by 128, row by row.
    pub(crate) tails: Buffer,
    heavy_panels: Buffer,
    start: Vec<f32>,
    factor: Vec<f32>,
    offset: Vec<f32>,
    pub(crate) bounds: Vec<Terms>,
    pub(crate) largest_offset: f64,
    /// Whether the pass takes some vectors as 0, for their size.
    pub(crate) outliers: bool,
}

/// What the first pass multiplies.
pub enum FirstPass {
    /// The vectors.
    Floats,
    /// Their 8-bit codes.
    Codes,
    /// Codes along other directions, the leading ones first.
    Along(Directions),
}

/// What a store is made of.
pub(crate) struct Content {
    pub(crate) metric: Metric,
    pub(crate) d: usize,
    pub(crate) vectors: Section<f32>,
    pub(crate) scale: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) first_pass: FirstPass,
}

impl Content {
    fn new(
        (vectors, d): (Section<f32>, usize),
        metric: Metric,
        (scale, bias): (Option<&[f32]>, Option<&[f32]>),
        first_pass: FirstPass,
    ) -> Content {
        let (scale, bias) = (scale.map(<[f32]>::to_vec), bias.map(<[f32]>::to_vec));
        Content { metric, d, vectors, scale, bias, first_pass }
    }
}

impl ExactStore {
    /// A copy of `vectors`, packed for its first pass.
    ///
    /// # Errors
    /// Lengths that do not fit, values that are not finite, an item scale or bias for squared distances, more rows or (with codes) columns than
    /// the formats hold.
    pub fn new(
        vectors: Matrix<f32>,
        metric: Metric,
        scale: Option<&[f32]>,
        bias: Option<&[f32]>,
        first_pass: FirstPass,
        threads: usize,
        isa: Isa,
    ) -> Result<ExactStore, ArgumentError> {
        let no_memory = ArgumentError::Memory { name: "vectors", rows: vectors.rows, got: vectors.columns };
        let copy = Section::zeros(vectors.data.len()).ok_or(no_memory)?;
        let of = Content::new((copy, vectors.columns), metric, (scale, bias), first_pass);
        ExactStore::prepared(of, Some(vectors), threads, isa)
    }

    /// [`ExactStore::new`] over `vectors` themselves, which are not copied.
    ///
    /// # Errors
    /// As [`ExactStore::new`].
    ///
    /// # Safety
    /// While `owner` lives, the vectors are there and nobody writes them.
    pub unsafe fn over(
        (vectors, owner): (Matrix<f32>, Owner),
        metric: Metric,
        scale: Option<&[f32]>,
        bias: Option<&[f32]>,
        first_pass: FirstPass,
        threads: usize,
        isa: Isa,
    ) -> Result<ExactStore, ArgumentError> {
        // SAFETY: the caller's promise.
        let lent = unsafe { Section::lent(vectors.data, owner) };
        let of = Content::new((lent, vectors.columns), metric, (scale, bias), first_pass);
        ExactStore::prepared(of, None, threads, isa)
    }

    /// Pack `of`, whose vectors are copied from `source` where there is one.
    pub(crate) fn prepared(
        of: Content,
        source: Option<Matrix<f32>>,
        threads: usize,
        isa: Isa,
    ) -> Result<ExactStore, ArgumentError> {
        let Content { metric, d, vectors, scale, bias, first_pass } = of;
        let (codes, directions) = match first_pass {
            FirstPass::Floats => (false, None),
            FirstPass::Codes => (true, None),
            FirstPass::Along(directions) => (true, Some(directions)),
        };
        let wrong = |message: String| Err(ArgumentError::Value(message));
        if d == 0 {
            return wrong("vectors: wanted at least one column".into());
        }
        let n = vectors.len() / d;
        if n >= u32::MAX as usize {
            return wrong(format!("vectors: wanted fewer than 2^32 rows, got {n}"));
        }
        if codes && d > MAX_COLUMNS {
            return wrong(format!("codes: wanted at most {MAX_COLUMNS} columns, got {d}"));
        }
        if let Some(directions) = &directions {
            length("directions", d * d, directions.matrix().len())?;
        }
        for (name, values) in [("item_scale", &scale), ("item_bias", &bias)] {
            let Some(values) = values else { continue };
            length(name, n, values.len())?;
            if metric == Metric::SquaredL2 {
                return wrong(format!("{name}: not for squared distances"));
            }
            if !values.iter().all(|v| v.is_finite()) {
                return wrong(format!("{name}: wanted finite values"));
            }
        }
        let padded = n.next_multiple_of(BLOCK) + PANEL;
        let words = if codes { directions.as_ref().map_or(d, |r| r.sizes().1).div_ceil(4) } else { d };
        let tail = directions.as_ref().map_or(0, Directions::tail);
        let heavy =
            if codes && directions.is_none() { heavy(source.map_or(&vectors, |s| s.data), d) } else { Vec::new() };
        let extra = directions.as_ref().map_or(heavy.len(), Directions::extra);
        let mut store = ExactStore {
            metric,
            n,
            d,
            vectors,
            scale,
            bias,
            inverse: filled(0.0, if metric == Metric::Cosine { n } else { 0 }),
            codes,
            panels: Buffer::new(n.next_multiple_of(PANEL) * words),
            tails: Buffer::new(n.next_multiple_of(PANEL) * tail / 4),
            heavy_panels: Buffer::new(n.next_multiple_of(PANEL) * extra),
            heavy,
            directions,
            start: filled(0.0, padded),
            factor: filled(0.0, padded),
            offset: filled(0.0, padded),
            bounds: filled([0.0; 5], n.div_ceil(BLOCK)),
            largest_offset: 0.0,
            outliers: false,
        };
        if let Some(row) = store.prepare(source, threads, isa) {
            return wrong(format!("vectors: finite values in float32, got NaN or infinity in row {row}"));
        }
        let offsets = store.offset.iter().map(|b| f64::from(b.abs()));
        store.largest_offset = offsets.fold(0.0, f64::max);
        Ok(store)
    }

    /// Copy (from `source`, where there is one) and pack, block after block while it is in the cache; the first row that is not finite,
    /// where one is.
    fn prepare(&mut self, source: Option<Matrix<f32>>, threads: usize, isa: Isa) -> Option<usize> {
        let (n, d, codes) = (self.n, self.d, self.codes);
        let (panels, tails, heavy_panels) = (self.panels.shared(), self.tails.shared(), self.heavy_panels.shared());
        let (heavy, directions) = (&self.heavy, self.directions.as_ref());
        let (start, factor) = (Shared::of(&mut self.start), Shared::of(&mut self.factor));
        let (offset, bounds) = (Shared::of(&mut self.offset), Shared::of(&mut self.bounds));
        let inverse = Shared::of(&mut self.inverse);
        let copy = if source.is_some() { Shared::of(self.vectors.to_mut()) } else { Shared::null() };
        let vectors = source.unwrap_or(Matrix::new(&self.vectors, n, d));
        let (bad, outliers) = (AtomicUsize::new(usize::MAX), AtomicBool::new(false));
        let items = Items {
            metric: self.metric,
            vectors: vectors.data,
            d,
            scale: self.scale.as_deref(),
            bias: self.bias.as_deref(),
            inverse: &[],
        };
        team::run(threads, |team| {
            let mut bytes = vec![0u8; if codes { PANEL * d } else { 0 }];
            let mut floats = Vec::new();
            let mut coder = Coder::new(d, ROTATED, heavy, directions);
            team.for_each(n.div_ceil(BLOCK), |u| {
                let rows = u * BLOCK..n.min((u + 1) * BLOCK);
                if let Some(row) = rows.clone().find(|&i| !Matrix::new(vectors.row(i), 1, d).finite()) {
                    bad.fetch_min(row, Ordering::Relaxed);
                    return;
                }
                // SAFETY: units write the rows and columns of their own block.
                unsafe {
                    if !copy.is_null() {
                        let block = &vectors.data[rows.start * d..rows.end * d];
                        copy.at(rows.start * d).copy_from_nonoverlapping(block.as_ptr(), block.len());
                    }
                    let (terms, outside) = isa.run(Prepare {
                        items,
                        codes,
                        block: rows.start,
                        to: rows.end,
                        directions,
                        panels: panels.at(0),
                        tails: tails.at(0),
                        heavy_panels: heavy_panels.at(0),
                        start: start.at(0),
                        factor: factor.at(0),
                        offset: offset.at(0),
                        inverse: inverse.at(0),
                        coder: &mut coder,
                        bytes: &mut bytes,
                        floats: &mut floats,
                    });
                    *bounds.at(u) = terms;
                    outliers.fetch_or(outside, Ordering::Relaxed);
                }
            });
        });
        self.outliers = outliers.into_inner();
        Some(bad.into_inner()).filter(|&row| row < usize::MAX)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.d
    }

    /// As they came.
    pub(crate) fn vectors(&self) -> Matrix<'_, f32> {
        Matrix::new(&self.vectors, self.n, self.d)
    }

    /// Coordinates that the pass has codes of.
    pub(crate) fn coded(&self) -> usize {
        self.directions.as_ref().map_or(self.d, |r| r.sizes().1)
    }

    /// Coordinates in f32 beside them.
    pub(crate) fn extra(&self) -> usize {
        self.directions.as_ref().map_or(self.heavy.len(), Directions::extra)
    }

    /// Whether the score of a pair depends on which of the two is the item.
    pub(crate) fn one_sided(&self) -> bool {
        self.scale.is_some() || self.bias.is_some()
    }

    pub(crate) fn items(&self) -> Items<'_> {
        Items {
            metric: self.metric,
            vectors: &self.vectors,
            d: self.d,
            scale: self.scale.as_deref(),
            bias: self.bias.as_deref(),
            inverse: &self.inverse,
        }
    }

    /// The columns as a first pass takes them; `from` is a multiple of [`BLOCK`].
    pub(crate) fn packed(&self, from: usize, to: usize) -> Columns<'_> {
        let words = if self.codes { self.coded().div_ceil(4) } else { self.d };
        let plain = !self.codes && self.metric != Metric::Cosine && self.scale.is_none();
        let flat = self.metric != Metric::SquaredL2 && self.bias.is_none();
        Columns {
            panels: self.panels.as_ptr().wrapping_add(from * words),
            from,
            to,
            start: self.codes.then_some(&self.start[..]),
            // An outlier's factor is 0.
            factor: (!plain).then_some(&self.factor[..]),
            offset: (!flat).then_some(&self.offset[..]),
            heavy: self.heavy_panels.as_ptr().wrapping_add(from * self.extra()),
            bounds: Some(&self.bounds),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::directions::tests::orthogonal;

    impl ExactStore {
        /// A wrong bound, which a search is expected to show.
        pub(crate) fn shorten_tails(&mut self, factor: f32) {
            let lengths = self.heavy_panels.as_mut_ptr();
            for j in 0..self.n.next_multiple_of(PANEL) {
                // SAFETY: with no other coordinate in f32 there is one for each item.
                unsafe { *lengths.add(j) *= factor }
            }
        }
    }

    impl FirstPass {
        /// All three, by number: vectors of too few columns for a tail have codes of all.
        pub(crate) fn number(pass: usize, d: usize, isa: Isa) -> FirstPass {
            match pass {
                0 => FirstPass::Floats,
                2 if d > 3 => {
                    let sizes = (d % 3, (d - d % 3).div_ceil(3));
                    FirstPass::Along(Directions::new(Matrix::new(&orthogonal(d), d, d), sizes, isa).unwrap())
                }
                _ => FirstPass::Codes,
            }
        }
    }
}
