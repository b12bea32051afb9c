//! Vectors that are prepared for exact search: a copy, packed as 8-bit codes or in f32, with the bounds of what that loses.

use crate::buffer::{Buffer, Shared};
use crate::error::{ArgumentError, length};
use crate::exact::{Items, Metric, dot, inverse_norm};
use crate::file::section::Section;
use crate::quant::{Column, MAX_COLUMNS, bounds, heavy, quantise};
use crate::scan::{BLOCK, Code, Columns, PANEL, Terms};
use crate::simd::{Isa, Kernel, Simd};
use crate::stop::filled;
use crate::team;
use crate::tile::Matrix;
use crate::topk::pack;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    panels: Buffer,
    heavy_panels: Buffer,
    start: Vec<f32>,
    factor: Vec<f32>,
    offset: Vec<f32>,
    pub(crate) bounds: Vec<Terms>,
    pub(crate) largest_offset: f64,
}

/// What a store is made of.
pub(crate) struct Content {
    pub(crate) metric: Metric,
    pub(crate) d: usize,
    pub(crate) vectors: Section<f32>,
    pub(crate) scale: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) codes: bool,
}

/// `row` into `light`, its heavy coordinates as 0; their norm.
#[inline(always)]
pub(crate) fn split(row: &[f32], heavy: &[usize], light: &mut [f32]) -> f64 {
    light.copy_from_slice(row);
    let square = |&h: &usize| f64::from(std::mem::take(&mut light[h])).powi(2);
    heavy.iter().map(square).sum::<f64>().sqrt()
}

/// Prepares one block of columns.
struct Prepare<'a> {
    items: Items<'a>,
    codes: bool,
    block: usize,
    to: usize,
    heavy: &'a [usize],
    panels: *mut f32,
    heavy_panels: *mut f32,
    start: *mut f32,
    factor: *mut f32,
    offset: *mut f32,
    inverse: *mut f64,
    bytes: &'a mut Vec<u8>,
    floats: &'a mut Vec<f32>,
}

impl Kernel for Prepare<'_> {
    type Out = Terms;
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> Terms {
        let Items { metric, d, scale, bias, .. } = self.items;
        let mut facts = [Column::default(); BLOCK];
        for first in (self.block..self.to).step_by(PANEL) {
            let live = PANEL.min(self.to - first);
            for c in 0..live {
                let (j, column) = (first + c, &mut facts[first + c - self.block]);
                let y = self.items.vector(j);
                let square = if self.codes && metric == Metric::InnerProduct { 0.0 } else { dot(y, y) };
                let alpha = match metric {
                    Metric::Cosine => inverse_norm(square) * scale.map_or(1.0, |a| f64::from(a[j])),
                    _ => scale.map_or(1.0, |a| f64::from(a[j])),
                };
                let beta = match metric {
                    Metric::SquaredL2 => -0.5 * square,
                    _ => bias.map_or(0.0, |b| f64::from(b[j])),
                };
                *column =
                    Column { factor: alpha.abs(), residual: 0.0, norm: square.sqrt(), heavy: 0.0, offset: beta.abs() };
                let (mut unit, mut start) = (1.0, 0);
                if self.codes {
                    let bytes = &mut self.bytes[c * d..][..d];
                    let q = if self.heavy.is_empty() {
                        quantise(y, bytes)
                    } else {
                        column.heavy = split(y, self.heavy, self.floats);
                        quantise(self.floats, bytes)
                    };
                    unit = f64::from(q.scale);
                    start = -128 * q.sum;
                    (column.residual, column.norm) = (q.residual * unit, q.norm * unit);
                }
                let (mut factor, mut heavy_factor) = (alpha * unit, alpha);
                if !column.passes(factor, self.codes) {
                    (factor, heavy_factor) = (0.0, 0.0);
                    if !self.codes {
                        if self.floats.is_empty() {
                            self.floats.extend_from_slice(&self.items.vectors[first * d..(first + live) * d]);
                        }
                        self.floats[c * d..][..d].fill(0.0);
                    }
                }
                // SAFETY: this unit owns the columns of its block.
                unsafe {
                    *self.start.add(j) = f32::from_bits(start as u32);
                    *self.factor.add(j) = factor as f32;
                    *self.offset.add(j) = column.small_offset(beta) as f32;
                    let at = self.heavy_panels.add(first * self.heavy.len() + c);
                    for (t, &h) in self.heavy.iter().enumerate() {
                        *at.add(t * PANEL) = (f64::from(y[h]) * heavy_factor) as f32;
                    }
                    if metric == Metric::Cosine {
                        *self.inverse.add(j) = inverse_norm(square);
                    }
                }
            }
            // SAFETY: as above; Code is a transparent byte.
            unsafe {
                if self.codes {
                    let bytes = std::slice::from_raw_parts(self.bytes.as_ptr().cast::<Code>(), live * d);
                    let out = self.panels.add(first * d.div_ceil(4));
                    pack(&Matrix::new(bytes, live, d), 0, live, out);
                } else if self.floats.is_empty() {
                    pack(
                        &Matrix::new(self.items.vectors, self.items.vectors.len() / d, d),
                        first,
                        first + live,
                        self.panels.add(first * d),
                    );
                } else {
                    pack(&Matrix::new(self.floats, live, d), 0, live, self.panels.add(first * d));
                    self.floats.clear();
                }
            }
        }
        bounds(&facts[..self.to - self.block], d, self.codes)
    }
}

impl ExactStore {
    /// `codes`: the first pass is over 8-bit codes.
    ///
    /// # Errors
    /// Lengths that do not fit, values that are not finite, an item scale or bias for squared distances, more rows or (with codes) columns than
    /// the formats hold.
    pub fn new(
        vectors: Matrix<f32>,
        metric: Metric,
        scale: Option<&[f32]>,
        bias: Option<&[f32]>,
        codes: bool,
        threads: usize,
        isa: Isa,
    ) -> Result<ExactStore, ArgumentError> {
        let no_memory = ArgumentError::Memory { name: "vectors", rows: vectors.rows, got: vectors.columns };
        let copy = Section::zeros(vectors.data.len()).ok_or(no_memory)?;
        let of = Content {
            metric,
            d: vectors.columns,
            vectors: copy,
            scale: scale.map(<[f32]>::to_vec),
            bias: bias.map(<[f32]>::to_vec),
            codes,
        };
        ExactStore::prepared(of, Some(vectors), threads, isa)
    }

    /// Pack `of`, whose vectors are copied from `source` where there is one.
    pub(crate) fn prepared(
        of: Content,
        source: Option<Matrix<f32>>,
        threads: usize,
        isa: Isa,
    ) -> Result<ExactStore, ArgumentError> {
        let Content { metric, d, vectors, scale, bias, codes } = of;
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
        let words = if codes { d.div_ceil(4) } else { d };
        let heavy = if codes { heavy(source.map_or(&vectors, |s| s.data), d) } else { Vec::new() };
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
            heavy_panels: Buffer::new(n.next_multiple_of(PANEL) * heavy.len()),
            heavy,
            start: filled(0.0, padded),
            factor: filled(0.0, padded),
            offset: filled(0.0, padded),
            bounds: filled([0.0; 5], n.div_ceil(BLOCK)),
            largest_offset: 0.0,
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
        let (panels, heavy_panels) = (self.panels.shared(), self.heavy_panels.shared());
        let heavy = &self.heavy;
        let (start, factor) = (Shared::of(&mut self.start), Shared::of(&mut self.factor));
        let (offset, bounds) = (Shared::of(&mut self.offset), Shared::of(&mut self.bounds));
        let inverse = Shared::of(&mut self.inverse);
        let copy = if source.is_some() { Shared::of(self.vectors.to_mut()) } else { Shared::null() };
        let vectors = source.unwrap_or(Matrix::new(&self.vectors, n, d));
        let bad = AtomicUsize::new(usize::MAX);
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
            let mut floats = vec![0f32; if heavy.is_empty() { 0 } else { d }];
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
                    *bounds.at(u) = isa.run(Prepare {
                        items,
                        codes,
                        block: rows.start,
                        to: rows.end,
                        heavy,
                        panels: panels.at(0),
                        heavy_panels: heavy_panels.at(0),
                        start: start.at(0),
                        factor: factor.at(0),
                        offset: offset.at(0),
                        inverse: inverse.at(0),
                        bytes: &mut bytes,
                        floats: &mut floats,
                    });
                }
            });
        });
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
        let words = if self.codes { self.d.div_ceil(4) } else { self.d };
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
            heavy: self.heavy_panels.as_ptr().wrapping_add(from * self.heavy.len()),
            bounds: Some(&self.bounds),
        }
    }
}
