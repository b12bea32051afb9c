//! One pass over packed columns, in which every score meets its row's threshold while the tile is still in registers.
//!
//! `value_ij = factor_j · acc_ij + weight_i · offset_j + <h_i, g_j>`, with a few f32 coordinates h and g, is a score in a unit of row i's own. It differs from the true one by at most
//! `error_ib = Σ_t terms_i[t] · bounds_b[t]` (columns of block b; see [`crate::quant`]; without bounds, values are taken as they are).
//! Only values above `threshold_i − error_ib` leave the registers: a few in ten thousand, so that the pass costs what its products cost. Where
//! it is along leading directions ([`crate::directions`]), values are upper bounds at first, and one in fifty leaves.

use crate::buffer::Buffer;
use crate::directions::Tails;
use crate::hits::{Hit, Hits, MOST_ROWS, Masks};
use crate::select::{Candidate, Exact, Selector};
use crate::simd::{Kernel, NV, Simd};
use crate::stop::{checkpoint, memory_left};
use crate::tile::{Acc, Bf16, CHAIN, Elem, Matrix, pack_panels, tile};

/// Columns of a packed panel, for every instruction set (narrower tiles read a part of it), so that a prepared store fits them all.
pub const PANEL: usize = 32;
/// Columns that share the bounds of their errors.
pub const BLOCK: usize = 256;
/// Bytes of packed columns that rows pass over while they stay in the L2 cache.
const RESIDENT: usize = 400 << 10;

/// Bounds of a block of columns: what its rows' [`Query::terms`] are multiplied with.
pub type Terms = [f32; 5];

/// How products of this type become numbers.
pub trait Product: Elem {
    /// From accumulators to f32.
    ///
    /// # Safety
    /// `S` is available.
    unsafe fn number<S: Simd>(acc: S::V) -> S::V;
    /// Whether sums are cut into chains.
    const ROUNDS: bool;
}

/// A byte; unsigned on the side of the rows, signed on the side of the columns.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Code(pub u8);

impl Elem for Code {
    const PER_WORD: usize = 4;
    #[inline(always)]
    unsafe fn step<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::dot_i8(a, b, acc) }
    }
    #[inline(always)]
    fn word(row: &[Code], at: usize) -> u32 {
        let byte = |t: usize| row.get(4 * at + t).map_or(0, |c| c.0);
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    }
    #[inline(always)]
    fn stack(rows: &[&[Code]], column: usize) -> u32 {
        let byte = |t: usize| rows.get(t).map_or(0, |r: &&[Code]| r[column].0);
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self.0 as i8)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Code {
        Code(x as i8 as u8)
    }
}

macro_rules! rounding {
    ($type:ty) => {
        impl Product for $type {
            const ROUNDS: bool = true;
            #[inline(always)]
            unsafe fn number<S: Simd>(acc: S::V) -> S::V {
                acc
            }
        }
    };
}
rounding!(f32);
rounding!(Bf16);

impl Product for Code {
    const ROUNDS: bool = false;
    #[inline(always)]
    unsafe fn number<S: Simd>(acc: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::i32_to_f32(acc) }
    }
}

/// Packed columns `from..to` of all.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// Panels of [`PANEL`] columns, the first of which is `from`, itself a multiple of [`BLOCK`].
    pub panels: *const f32,
    /// The first column.
    pub from: usize,
    /// One past the last.
    pub to: usize,
    /// Bits of the 32-bit integers that accumulators start from; as all below: of all columns and [`PANEL`] more.
    pub start: Option<&'a [f32]>,
    /// 1 when None.
    pub factor: Option<&'a [f32]>,
    /// 0 when None.
    pub offset: Option<&'a [f32]>,
    /// Panels of the coordinates in f32, from the first column, when there are any.
    pub heavy: *const f32,
    /// For each [`BLOCK`] of all columns. None: values are scores.
    pub bounds: Option<&'a [Terms]>,
}

impl Columns<'_> {
    /// Column `c`, a multiple of a tile's, of panels with `k` words a column.
    #[inline(always)]
    pub(crate) fn panel(&self, c: usize, k: usize) -> *const f32 {
        let at = c - self.from;
        self.panels.wrapping_add(at / PANEL * PANEL * k + at % PANEL)
    }
}

/// What a row brings besides its elements.
#[derive(Clone, Copy)]
pub struct Query {
    /// Multiplies the offsets.
    pub weight: f32,
    /// Multiplies the bounds.
    pub terms: Terms,
    /// Is added to the sum. Infinite: every column is a candidate.
    pub error: f32,
}

impl Query {
    /// For scores that are taken as they are.
    pub const PLAIN: Query = Query { weight: 1.0, terms: [0.0; 5], error: 0.0 };

    /// How far values of these columns can be off.
    #[inline(always)]
    pub fn error(&self, bounds: &Terms) -> f32 {
        let error = self.terms.iter().zip(bounds).fold(self.error, |sum, (t, b)| sum + t * b);
        // Also for 0 · ∞.
        if error < f32::INFINITY { error } else { f32::INFINITY }
    }
}

/// The columns that a row must not return.
#[derive(Clone, Copy, Default)]
pub struct LeftOut<'a> {
    /// 0 where a column is left out for all rows.
    pub filter: Option<&'a [u8]>,
    /// Per row, sorted.
    pub csr: Option<(&'a [i64], &'a [i64])>,
    /// Column i for row i.
    pub diagonal: bool,
}

impl LeftOut<'_> {
    /// Whether row `i` may return column `j`.
    #[inline]
    pub fn keeps(&self, i: usize, j: usize) -> bool {
        !(self.diagonal && i == j)
            && self.filter.is_none_or(|f| f[j] != 0)
            && self.csr.is_none_or(|(indptr, indices)| {
                indices[indptr[i] as usize..indptr[i + 1] as usize].binary_search(&(j as i64)).is_err()
            })
    }
}

/// A few rows against `columns`.
pub struct Scan<'a, E> {
    /// These rows.
    pub x: Matrix<'a, E>,
    /// Their coordinates in f32, as many as the columns have.
    pub heavy: Matrix<'a, f32>,
    /// Where these elements are leading ones only: their last coordinate in f32 is then the length of the others.
    pub tails: Option<Tails<'a>>,
    /// The number of the first of them among all rows.
    pub first: usize,
    /// Of these rows.
    pub queries: &'a [Query],
    /// Of these rows.
    pub selectors: &'a mut [Selector],
    /// Packed.
    pub columns: Columns<'a>,
    /// Pairs that are left out.
    pub left_out: LeftOut<'a>,
    /// Needed with bounds.
    pub exact: Option<&'a dyn Exact>,
    /// Room for the rows and 16 more, heavy coordinates included.
    pub workspace: &'a mut Buffer,
    /// Exact scores that were computed.
    pub computed: &'a mut usize,
}

/// Where the rows of a tile stand.
struct Standing {
    errors: [f32; MOST_ROWS],
    thresholds: [f32; MOST_ROWS],
}

impl Standing {
    /// Values of a tile whose rows begin with `row` of all and its columns with `column`, to its rows' selectors.
    #[cold]
    #[inline(never)]
    fn collect(
        &mut self,
        hits: &Hits,
        (row, column): (usize, usize),
        selectors: &mut [Selector],
        (to, left_out): (usize, &LeftOut),
        exact: Option<&dyn Exact>,
    ) -> usize {
        let mut computed = 0;
        for hit in hits.iter() {
            // Adding 0 leaves one zero: the order of candidates tells −0 from 0.
            let (value, id, i) = (hit.value + 0.0, column + hit.column, row + hit.row);
            // Again: the threshold may have risen within the tile.
            if value <= self.thresholds[hit.row] || id >= to || !left_out.keeps(i, id) {
                continue;
            }
            let (error, selector) = (self.errors[hit.row], &mut selectors[hit.row]);
            if selector.push(Candidate { lower: value - error, upper: value + error, id: id as u32 }) {
                match exact {
                    None => selector.cut(),
                    Some(exact) => computed += selector.cut_bounds(i, exact),
                }
                self.thresholds[hit.row] = selector.threshold() - error;
            }
        }
        computed
    }
}

impl<E: Product> Kernel for Scan<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let (k, m) = (self.x.words(), self.x.rows);
        let Columns { from, to, .. } = self.columns;
        let panels = self.workspace.as_mut_ptr();
        let resident = (RESIDENT / (4 * k.max(1)) / BLOCK * BLOCK).max(BLOCK);
        let mut standing = Standing { errors: [0.0; MOST_ROWS], thresholds: [f32::INFINITY; MOST_ROWS] };
        let mut hits = Hits::new();
        // SAFETY: the panels hold the rows; blocks stay within the packed columns.
        unsafe {
            pack_panels(&self.x, 0, m, MR, panels);
            let (heavy, h) = (panels.add(m.next_multiple_of(MR) * k), self.heavy.columns);
            pack_panels(&self.heavy, 0, m, MR, heavy);
            for part in (from..to).step_by(resident) {
                checkpoint();
                for (p, i) in (0..m).step_by(MR).enumerate() {
                    memory_left();
                    let rows = MR.min(m - i);
                    let a = panels.add(p * MR * k);
                    let queries = &self.queries[i..][..rows];
                    let selectors = &mut self.selectors[i..][..rows];
                    for block in (part..to.min(part + resident)).step_by(BLOCK) {
                        standing.thresholds[rows..].fill(f32::INFINITY);
                        for (r, (query, selector)) in queries.iter().zip(selectors.iter()).enumerate() {
                            let error = self.columns.bounds.map_or(0.0, |b| query.error(&b[block / BLOCK]));
                            (standing.errors[r], standing.thresholds[r]) = (error, selector.threshold() - error);
                        }
                        for c in (block..to.min(block + BLOCK)).step_by(NV * S::W) {
                            let b = self.columns.panel(c, k);
                            let values =
                                values::<S, E, MR>((k, a, b), (h, heavy.add(p * MR * h)), &self.columns, c, queries);
                            let (mut masks, mut any): (Masks, u32) = ([[0; NV]; MOST_ROWS], 0);
                            for ((row, masks), threshold) in values.iter().zip(&mut masks).zip(standing.thresholds) {
                                for (v, mask) in row.iter().zip(masks) {
                                    *mask = S::gt(*v, S::splat(threshold));
                                    any |= *mask;
                                }
                            }
                            if any == 0 {
                                continue;
                            }
                            hits.gather::<S, MR>(&values, &masks);
                            if let Some(tails) = &self.tails {
                                let passes = |hit: Hit| hit.value > standing.thresholds[hit.row];
                                tails.complete::<S>(&mut hits, (i, c), (&self.heavy, &self.columns), passes);
                            }
                            if hits.count() > 0 {
                                let at = (self.first + i, c);
                                let left_out = (to, &self.left_out);
                                *self.computed += standing.collect(&hits, at, selectors, left_out, self.exact);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The values of a tile.
///
/// # Safety
/// `S` is available, the panels hold `k` words and `h` coordinates in f32, and column `c` lies within the columns.
#[inline(always)]
pub(crate) unsafe fn values<S: Simd, E: Product, const MR: usize>(
    (k, a, b): (usize, *const f32, *const f32),
    (h, heavy): (usize, *const f32),
    columns: &Columns,
    c: usize,
    queries: &[Query],
) -> Acc<S, MR> {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = [S::splat(0.0); NV];
        let at = |of: Option<&[f32]>, v: usize| of.map(|of| S::load(of.as_ptr().add(c + v * S::W)));
        let first = if E::ROUNDS { CHAIN.min(k) } else { k };
        let start: [S::V; NV] = std::array::from_fn(|v| at(columns.start, v).unwrap_or(zero[v]));
        let mut acc = tile::<S, E, MR>(first, (a, 1, MR), (b, PANEL), [start; MR]);
        let mut k0 = first;
        while k0 < k {
            let part =
                tile::<S, E, MR>(CHAIN.min(k - k0), (a.add(k0 * MR), 1, MR), (b.add(k0 * PANEL), PANEL), [zero; MR]);
            for (row, add) in acc.iter_mut().zip(part) {
                for (lane, add) in row.iter_mut().zip(add) {
                    *lane = S::add(*lane, add);
                }
            }
            k0 += CHAIN;
        }
        for v in 0..NV {
            if let Some(factor) = at(columns.factor, v) {
                for row in &mut acc {
                    row[v] = S::mul(E::number::<S>(row[v]), factor);
                }
            }
            if let Some(offset) = at(columns.offset, v) {
                for (row, query) in acc.iter_mut().zip(queries) {
                    row[v] = S::fma(offset, S::splat(query.weight), row[v]);
                }
            }
        }
        if h > 0 {
            let at = c - columns.from;
            let b = columns.heavy.add(at / PANEL * PANEL * h + at % PANEL);
            acc = tile::<S, f32, MR>(h, (heavy, 1, MR), (b, PANEL), acc);
        }
        acc
    }
}
