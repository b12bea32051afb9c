//! Exact search in a prepared set of vectors: the k best by the f64 score, equal scores by the smaller id.
//!
//! A first pass in f32, or over 8-bit codes, leaves the columns that its proved error ([`crate::quant`]) cannot exclude; these are
//! scored by [`crate::exact`]. Which pass is taken, the blocks, threads and instruction set make no difference to the result.

use crate::buffer::{Buffer, Shared};
use crate::error::{ArgumentError, length};
use crate::exact::{Items, Metric, dot, inverse_norm};
use crate::pairs::check_csr;
use crate::quant::{Column, MAX_COLUMNS, MAX_HEAVY, Row, bounds, down, heavy, quantise};
use crate::scan::{BLOCK, Code, Columns, LeftOut, PANEL, Product, Query, Scan, Terms};
use crate::select::{Exact, Selector, insert, order};
use crate::simd::{Isa, Kernel, Simd};
use crate::team;
use crate::tile::Matrix;
use crate::topk::{ROWS, column_parts, pack, part};

/// Once so few of the columns pass a filter, a pass over all of them costs more than their exact scores.
const FEW: usize = 64;
/// Units of rows are multiples of every tile's rows.
const ROW_STEP: usize = 48;

/// Vectors, packed for a first pass.
pub struct ExactStore {
    metric: Metric,
    n: usize,
    d: usize,
    vectors: Vec<f32>,
    scale: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    inverse: Vec<f64>,
    codes: bool,
    /// Coordinates that stay in f32 beside the codes.
    heavy: Vec<usize>,
    panels: Buffer,
    heavy_panels: Buffer,
    start: Vec<f32>,
    factor: Vec<f32>,
    offset: Vec<f32>,
    bounds: Vec<Terms>,
    largest_offset: f64,
}

/// Results of a search; see [`crate::topk::TopK`].
pub struct Found {
    /// Scores (squared distances, ascending, for [`Metric::SquaredL2`]).
    pub scores: Vec<f32>,
    /// Columns.
    pub ids: Vec<i64>,
    /// Exact scores that were computed.
    pub computed: usize,
}

/// `row` into `light`, its heavy coordinates as 0; their norm.
#[inline(always)]
fn split(row: &[f32], heavy: &[usize], light: &mut [f32]) -> f64 {
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
                    *self.offset.add(j) = beta as f32;
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
        let (n, d) = (vectors.rows, vectors.columns);
        let wrong = |message: String| Err(ArgumentError::Value(message));
        if d == 0 {
            return wrong("vectors: wanted at least one column".into());
        }
        if n >= u32::MAX as usize {
            return wrong(format!("vectors: wanted fewer than 2^32 rows, got {n}"));
        }
        if codes && d > MAX_COLUMNS {
            return wrong(format!("codes: wanted at most {MAX_COLUMNS} columns, got {d}"));
        }
        if !vectors.finite() {
            return wrong("vectors: wanted finite values".into());
        }
        for (name, values) in [("item_scale", scale), ("item_bias", bias)] {
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
        let heavy = if codes { heavy(vectors.data, d) } else { Vec::new() };
        let mut store = ExactStore {
            metric,
            n,
            d,
            vectors: vectors.data.to_vec(),
            scale: scale.map(<[f32]>::to_vec),
            bias: bias.map(<[f32]>::to_vec),
            inverse: vec![0.0; if metric == Metric::Cosine { n } else { 0 }],
            codes,
            panels: Buffer::new(n.next_multiple_of(PANEL) * words),
            heavy_panels: Buffer::new(n.next_multiple_of(PANEL) * heavy.len()),
            heavy,
            start: vec![0.0; padded],
            factor: vec![0.0; padded],
            offset: vec![0.0; padded],
            bounds: vec![[0.0; 5]; n.div_ceil(BLOCK)],
            largest_offset: 0.0,
        };
        store.prepare(threads, isa);
        let offsets = store.offset.iter().map(|b| f64::from(b.abs()));
        store.largest_offset = offsets.fold(0.0, f64::max);
        Ok(store)
    }

    fn prepare(&mut self, threads: usize, isa: Isa) {
        let (n, d, codes) = (self.n, self.d, self.codes);
        let (panels, heavy_panels) = (self.panels.shared(), self.heavy_panels.shared());
        let heavy = &self.heavy;
        let (start, factor) = (Shared::of(&mut self.start), Shared::of(&mut self.factor));
        let (offset, bounds) = (Shared::of(&mut self.offset), Shared::of(&mut self.bounds));
        let inverse = Shared::of(&mut self.inverse);
        let items = Items {
            metric: self.metric,
            vectors: &self.vectors,
            d,
            scale: self.scale.as_deref(),
            bias: self.bias.as_deref(),
            inverse: &[],
        };
        team::run(threads, |team| {
            let mut bytes = vec![0u8; if codes { PANEL * d } else { 0 }];
            let mut floats = vec![0f32; if heavy.is_empty() { 0 } else { d }];
            team.for_each(n.div_ceil(BLOCK), |u| {
                // SAFETY: units write the columns of their own block.
                unsafe {
                    *bounds.at(u) = isa.run(Prepare {
                        items,
                        codes,
                        block: u * BLOCK,
                        to: n.min((u + 1) * BLOCK),
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
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.d
    }

    fn items(&self) -> Items<'_> {
        Items {
            metric: self.metric,
            vectors: &self.vectors,
            d: self.d,
            scale: self.scale.as_deref(),
            bias: self.bias.as_deref(),
            inverse: &self.inverse,
        }
    }

    fn packed(&self, from: usize, to: usize) -> Columns<'_> {
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

    /// The k best of each query. `filter` holds a byte a row, 0 for those to leave out; `csr` lists rows to leave out per query, sorted.
    ///
    /// # Errors
    /// A filter or lists that do not fit; queries that are not finite.
    ///
    /// # Panics
    /// When the queries have another number of columns.
    pub fn search(
        &self,
        queries: Matrix<f32>,
        k: usize,
        filter: Option<&[u8]>,
        csr: Option<(&[i64], &[i64])>,
        threads: usize,
        isa: Isa,
    ) -> Result<Found, ArgumentError> {
        assert_eq!(queries.columns, self.d);
        let (m, n) = (queries.rows, self.n);
        if let Some(filter) = filter {
            length("filter", n, filter.len())?;
        }
        if let Some((indptr, indices)) = csr {
            check_csr(indptr, indices, m, n)?;
        }
        if !queries.finite() {
            return Err(ArgumentError::Value("queries: wanted finite values".into()));
        }
        let mut scores = vec![f32::NEG_INFINITY; m * k];
        let mut ids = vec![-1i64; m * k];
        let mut computed = 0;
        if m > 0 && n > 0 && k > 0 {
            let left_out = LeftOut { filter, csr, diagonal: false };
            let few: Option<Vec<u32>> = filter
                .filter(|f| f.iter().filter(|&&b| b != 0).count() <= n / FEW)
                .map(|f| (0..n as u32).filter(|&j| f[j as usize] != 0).collect());
            let job = Job { store: self, queries, k: k.min(n), left_out, few, isa };
            computed = job.run(threads, k, Shared::of(&mut scores), Shared::of(&mut ids));
        }
        if self.metric == Metric::SquaredL2 {
            scores.iter_mut().for_each(|s| *s = 0.0 - *s);
        }
        Ok(Found { scores, ids, computed })
    }
}

struct Job<'a> {
    store: &'a ExactStore,
    queries: Matrix<'a, f32>,
    k: usize,
    left_out: LeftOut<'a>,
    few: Option<Vec<u32>>,
    isa: Isa,
}

type Best = Vec<(f64, u32)>;

impl Job<'_> {
    fn run(&self, threads: usize, stride: usize, scores: Shared<f32>, ids: Shared<i64>) -> usize {
        let (m, n) = (self.queries.rows, self.store.n);
        let each = m.div_ceil(2 * threads).next_multiple_of(ROW_STEP).min(ROWS);
        let row_units = m.div_ceil(if threads == 1 { ROWS } else { each });
        let each = if threads == 1 { ROWS } else { each };
        let parts = if self.few.is_some() { 1 } else { column_parts(row_units, n, threads) };
        let mut lists: Vec<Best> = vec![Vec::new(); if parts > 1 { parts * m } else { 0 }];
        let lists = Shared::of(&mut lists);
        let total = std::sync::atomic::AtomicUsize::new(0);
        let write = |i: usize, best: &[(f64, u32)]| {
            for (t, (score, id)) in best.iter().enumerate() {
                // SAFETY: every row is written by one unit.
                unsafe {
                    *scores.at(i * stride + t) = *score as f32;
                    *ids.at(i * stride + t) = i64::from(*id);
                }
            }
        };
        team::run(threads, |team| {
            let mut workspace = Buffer::new((each.min(m) + 16) * (self.store.d + MAX_HEAVY));
            let mut computed = 0;
            team.for_each(row_units * parts, |u| {
                let (p, i0) = (u / row_units, u % row_units * each);
                let i1 = m.min(i0 + each);
                let (j0, j1) = part(0, n, p, parts);
                let best = match &self.few {
                    Some(few) => self.few_rows((i0, i1), few, &mut computed),
                    None => self.unit((i0, i1), (j0, j1), &mut workspace, &mut computed),
                };
                for (r, best) in best.into_iter().enumerate() {
                    if parts == 1 {
                        write(i0 + r, &best);
                    } else {
                        // SAFETY: as above, for each part.
                        unsafe { *lists.at(p * m + i0 + r) = best }
                    }
                }
            });
            team.for_each(if parts > 1 { m } else { 0 }, |i| {
                // SAFETY: all lists are complete, each row is read by one unit.
                let mut best: Best = (0..parts).flat_map(|p| unsafe { &*lists.at(p * m + i) }).copied().collect();
                best.sort_by(order);
                best.truncate(self.k);
                write(i, &best);
            });
            total.fetch_add(computed, std::sync::atomic::Ordering::Relaxed);
        });
        total.into_inner()
    }

    /// Exact scores of all columns that pass the filter.
    fn few_rows(&self, (i0, i1): (usize, usize), few: &[u32], computed: &mut usize) -> Vec<Best> {
        let items = self.store.items();
        let mut scores = vec![0.0; few.len()];
        let of_row = |i: usize| {
            let query = self.queries.row(i);
            items.scores(query, inverse_norm(dot(query, query)), few, &mut scores, self.isa);
            *computed += few.len();
            let mut best = Vec::with_capacity(self.k);
            for (&score, &id) in scores.iter().zip(few) {
                if self.left_out.keeps(i, id as usize) {
                    insert(&mut best, self.k, (score, id));
                }
            }
            best
        };
        (i0..i1).map(of_row).collect()
    }

    /// The best among columns `j0..j1`.
    fn unit(
        &self,
        rows: (usize, usize),
        (j0, j1): (usize, usize),
        workspace: &mut Buffer,
        computed: &mut usize,
    ) -> Vec<Best> {
        let (d, count) = (self.store.d, rows.1 - rows.0);
        let mut passed = Passed::new(self, rows);
        let queries = std::mem::take(&mut passed.queries);
        let mut selectors: Vec<Selector> = (0..count).map(|_| Selector::new(self.k)).collect();
        let columns = self.store.packed(j0, j1);
        let work = Work { job: self, passed: &passed, rows, queries: &queries, columns };
        if self.store.codes {
            // SAFETY: Code is a transparent byte.
            let bytes = unsafe { std::slice::from_raw_parts(passed.bytes.as_ptr().cast::<Code>(), passed.bytes.len()) };
            work.scan(Matrix::new(bytes, count, d), &mut selectors, workspace, computed);
        } else {
            work.scan(Matrix::new(&passed.floats, count, d), &mut selectors, workspace, computed);
        }
        let resolved = |(r, mut selector): (usize, Selector)| {
            *computed += selector.resolve(rows.0 + r, &passed);
            selector.into_best()
        };
        selectors.into_iter().enumerate().map(resolved).collect()
    }
}

struct Work<'a> {
    job: &'a Job<'a>,
    passed: &'a Passed<'a>,
    rows: (usize, usize),
    queries: &'a [Query],
    columns: Columns<'a>,
}

impl Work<'_> {
    fn scan<E: Product>(self, x: Matrix<E>, selectors: &mut [Selector], workspace: &mut Buffer, computed: &mut usize) {
        let heavy = self.job.store.heavy.len();
        self.job.isa.run(Scan {
            heavy: Matrix::new(&self.passed.heavy, x.rows, heavy),
            x,
            first: self.rows.0,
            queries: self.queries,
            selectors,
            columns: self.columns,
            left_out: self.job.left_out,
            exact: Some(self.passed),
            workspace,
            computed,
        });
    }
}

/// The rows of a unit as the first pass takes them, and their exact scores.
struct Passed<'a> {
    items: Items<'a>,
    source: Matrix<'a, f32>,
    first: usize,
    isa: Isa,
    bytes: Vec<u8>,
    floats: Vec<f32>,
    /// w_i x_h
    heavy: Vec<f32>,
    queries: Vec<Query>,
    /// 1 / norm, squared norm and w of each row.
    facts: Vec<[f64; 3]>,
}

struct Pass<'a, 'b> {
    store: &'a ExactStore,
    rows: (usize, usize),
    to: &'a mut Passed<'b>,
}

impl Kernel for Pass<'_, '_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let (store, (i0, i1), to) = (self.store, self.rows, self.to);
        let d = store.d;
        let mut light = vec![0f32; d];
        for i in i0..i1 {
            let x = to.source.row(i);
            let square = dot(x, x);
            let norm = square.sqrt();
            let unit = if store.metric == Metric::Cosine && norm > 0.0 { norm } else { 1.0 };
            let mut row = Row { unit, norm, heavy: 0.0, square: (store.metric == Metric::SquaredL2).then_some(square) };
            let at = (i - i0) * d;
            let (query, weight) = if store.codes {
                let bytes = &mut to.bytes[at..at + d];
                row.heavy = split(x, &store.heavy, &mut light);
                let q = quantise(&light, bytes);
                let (query, weight) = row.with_codes(&q, d, store.largest_offset);
                let keep = query.error < f32::INFINITY;
                bytes.iter_mut().for_each(|b| *b = if keep { *b ^ 0x80 } else { 0x80 });
                let weight_or_0 = if keep { weight } else { 0.0 };
                to.heavy.extend(store.heavy.iter().map(|&h| (weight_or_0 * f64::from(x[h])) as f32));
                (query, weight)
            } else {
                let (query, weight) = row.with_floats(d, store.largest_offset);
                if query.error < f32::INFINITY {
                    to.floats[at..at + d].copy_from_slice(x);
                }
                (query, weight)
            };
            to.queries.push(query);
            to.facts.push([inverse_norm(square), square, weight]);
        }
    }
}

impl<'a> Passed<'a> {
    fn new(job: &'a Job, rows: (usize, usize)) -> Passed<'a> {
        let (store, count) = (job.store, rows.1 - rows.0);
        let len = count * store.d;
        let mut passed = Passed {
            items: store.items(),
            source: job.queries,
            first: rows.0,
            isa: job.isa,
            bytes: vec![0; if store.codes { len } else { 0 }],
            floats: vec![0.0; if store.codes { 0 } else { len }],
            heavy: Vec::with_capacity(count * store.heavy.len()),
            queries: Vec::with_capacity(count),
            facts: Vec::with_capacity(count),
        };
        job.isa.run(Pass { store, rows, to: &mut passed });
        passed
    }
}

impl Exact for Passed<'_> {
    fn scores(&self, row: usize, ids: &[u32], out: &mut [f64]) {
        let [inverse, ..] = self.facts[row - self.first];
        self.items.scores(self.source.row(row), inverse, ids, out, self.isa);
    }

    fn floor(&self, row: usize, score: f64) -> f32 {
        let [_, square, weight] = self.facts[row - self.first];
        match self.items.metric {
            Metric::SquaredL2 => {
                let slack = (square - score) / (1u64 << 34) as f64;
                down(weight * ((square + score) * 0.5 - slack))
            }
            _ => down(weight * score),
        }
    }
}
