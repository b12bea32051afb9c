//! Approximate nearest neighbours: a walk over a graph whose vertices are the items.
//!
//! One layer, rows of at most `degree` edges, short codes of the vectors beside them ([`codes`]); the best of a walk ([`walk`]) are ranked
//! by scores in f64 from the vectors themselves ([`search`], [`filter`]). [`build`] inserts, [`repair`] removes, [`file`] keeps.
//!
//! Codes, their products and all comparisons come out the same on every processor, so that the graph, and what a search returns, depend
//! on the vectors, the seed and the order of calls alone.

mod build;
mod codes;
mod file;
mod filter;
mod pool;
mod prune;
mod query;
mod repair;
mod rotate;
mod search;
mod walk;

use crate::buffer::Shared;
use crate::error::ArgumentError;
use crate::exact::{Items, Metric, dot, inverse_norm};
pub use crate::file::FileError;
use crate::file::section::Section;
use crate::simd::{Isa, Kernel, Simd};
use crate::team;
use crate::tile::Matrix;
use codes::Coder;
use query::Query;
use walk::Terrain;

pub use search::{Neighbours, Wanted};

/// Vertices where walks begin.
const ENTRIES: usize = 64;
/// What a number of a vertex stays below: a bit of it marks pools.
const MOST: usize = 1 << 31;

/// Items and their graph.
pub struct Graph {
    coder: Coder,
    degree: usize,
    breadth: usize,
    seed: u64,
    live: usize,
    next_id: i64,
    /// Of each slot, rising; `!id` once the item was removed.
    ids: Section<i64>,
    vectors: Section<f32>,
    /// 1 / ‖x‖ for cosines.
    inverse: Section<f64>,
    codes: Section<u8>,
    signs: Section<u8>,
    edges: Section<u32>,
    entries: Vec<u32>,
}

impl Graph {
    /// A graph of `vectors`, with ids from 0.
    ///
    /// # Errors
    /// No columns, a degree or breadth out of range, values that are not finite, more rows than a graph holds.
    pub fn build(
        vectors: Matrix<f32>,
        metric: Metric,
        (degree, breadth): (usize, usize),
        seed: u64,
        threads: usize,
        isa: Isa,
    ) -> Result<Graph, ArgumentError> {
        if vectors.columns == 0 {
            return Err(ArgumentError::Value("vectors: wanted at least one column".into()));
        }
        if !(4..=prune::MAX_DEGREE).contains(&degree) {
            return Err(ArgumentError::Value(format!("degree: wanted 4..={}, got {degree}", prune::MAX_DEGREE)));
        }
        if breadth < degree {
            return Err(ArgumentError::Value(format!("breadth: wanted at least the degree {degree}, got {breadth}")));
        }
        let d = vectors.columns;
        let mut graph = Graph {
            coder: Coder::new(metric, d, seed, 1.0, vec![0.0; d], 0.0, 0.0),
            degree,
            breadth,
            seed,
            live: 0,
            next_id: 0,
            ids: Section::new(),
            vectors: Section::new(),
            inverse: Section::new(),
            codes: Section::new(),
            signs: Section::new(),
            edges: Section::new(),
            entries: Vec::new(),
        };
        graph.add(vectors, threads, isa)?;
        Ok(graph)
    }

    /// Add items; their ids, in order, begin with the one returned.
    ///
    /// # Errors
    /// Values that are not finite, another number of columns, more rows than a graph holds.
    pub fn add(&mut self, vectors: Matrix<f32>, threads: usize, isa: Isa) -> Result<i64, ArgumentError> {
        let (from, d) = (self.slots(), self.dim());
        if vectors.columns != d {
            return Err(ArgumentError::Value(format!("vectors: wanted {d} columns, got {}", vectors.columns)));
        }
        vectors.check_finite("vectors")?;
        if vectors.rows >= MOST - from {
            return Err(ArgumentError::Value(format!("vectors: wanted fewer than 2^31 in all, got {}", vectors.rows)));
        }
        let first = self.next_id;
        if vectors.rows == 0 {
            return Ok(first);
        }
        let n = from + vectors.rows;
        if self.live == 0 {
            self.coder = Coder::of(self.coder.metric, vectors.data, d, self.seed);
        }
        self.ids.grow(n);
        self.ids.to_mut()[from..].iter_mut().zip(first..).for_each(|(slot, id)| *slot = id);
        self.vectors.grow(n * d);
        self.vectors.to_mut()[from * d..].copy_from_slice(vectors.data);
        self.lift(vectors);
        self.encode(from, threads, isa);
        (self.live, self.next_id) = (self.live + vectors.rows, first + vectors.rows as i64);
        self.insert(from, threads, isa);
        Ok(first)
    }

    /// Where a new vector is the longest, all get another a.
    fn lift(&mut self, vectors: Matrix<f32>) {
        let square = (0..vectors.rows).map(|i| dot(vectors.row(i), vectors.row(i))).fold(0.0, f64::max);
        let square = square * self.coder.scale * self.coder.scale;
        if self.coder.metric != Metric::InnerProduct || square <= self.coder.largest_square {
            return;
        }
        self.coder.largest_square = square;
        let (d, layout) = (self.dim(), self.coder.layout);
        let (records, bytes) = match layout.sign_bytes {
            0 => (self.codes.to_mut(), layout.code_bytes),
            bytes => (self.signs.to_mut(), bytes),
        };
        for (record, x) in records.chunks_exact_mut(bytes).zip(self.vectors.chunks_exact(d)) {
            layout.set_lift(record, self.coder.lift(dot(x, x)));
        }
    }

    fn encode(&mut self, from: usize, threads: usize, isa: Isa) {
        let (n, layout) = (self.slots(), self.coder.layout);
        self.codes.grow(n * layout.code_bytes);
        self.signs.grow(n * layout.sign_bytes);
        if self.coder.metric == Metric::Cosine {
            self.inverse.grow(n);
        }
        let (codes, signs) = (Shared::of(self.codes.to_mut()), Shared::of(self.signs.to_mut()));
        let inverse = Shared::of(self.inverse.to_mut());
        let (coder, vectors, d) = (&self.coder, &self.vectors, layout.d);
        team::run(threads, |team| {
            let mut query = Query::new(&layout);
            team.for_each((n - from).div_ceil(prune::CHUNK), |u| {
                let first = from + u * prune::CHUNK;
                for i in first..n.min(first + prune::CHUNK) {
                    let x = &vectors[i * d..][..d];
                    // SAFETY: every item's records are written once.
                    unsafe {
                        let code = std::slice::from_raw_parts_mut(codes.at(i * layout.code_bytes), layout.code_bytes);
                        let sign = std::slice::from_raw_parts_mut(signs.at(i * layout.sign_bytes), layout.sign_bytes);
                        isa.run(Encode { coder, x, code, sign, query: &mut query });
                        if coder.metric == Metric::Cosine {
                            *inverse.at(i) = inverse_norm(dot(x, x));
                        }
                    }
                }
            });
        });
    }

    fn ask(&self, x: &[f32], item: bool, query: &mut Query, isa: Isa) {
        isa.run(Ask { coder: &self.coder, x, item, query });
    }

    /// Live items.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// D
    pub fn dim(&self) -> usize {
        self.coder.layout.d
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.coder.metric
    }

    /// Ids of all items, rising.
    pub fn ids(&self) -> Vec<i64> {
        self.ids.iter().copied().filter(|&id| id >= 0).collect()
    }

    /// What a new item's id will be; ids are never given twice.
    pub fn next_id(&self) -> i64 {
        self.next_id
    }

    /// Bytes besides the vectors.
    pub fn graph_bytes(&self) -> usize {
        [
            self.codes.as_bytes(),
            self.signs.as_bytes(),
            self.edges.as_bytes(),
            self.ids.as_bytes(),
            self.inverse.as_bytes(),
        ]
        .iter()
        .map(|b| b.len())
        .sum()
    }

    fn slots(&self) -> usize {
        self.ids.len()
    }

    fn is_live(&self, slot: usize) -> bool {
        self.ids[slot] >= 0
    }

    fn vector(&self, slot: usize) -> &[f32] {
        &self.vectors[slot * self.dim()..][..self.dim()]
    }

    fn items(&self) -> Items<'_> {
        let d = self.dim();
        Items { metric: self.coder.metric, vectors: &self.vectors, d, scale: None, bias: None, inverse: &self.inverse }
    }

    fn terrain(&self) -> Terrain<'_> {
        Terrain {
            layout: self.coder.layout,
            codes: &self.codes,
            signs: &self.signs,
            edges: &self.edges,
            degree: self.degree,
            entries: &self.entries,
            vectors: &self.vectors,
        }
    }
}

struct Encode<'a> {
    coder: &'a Coder,
    x: &'a [f32],
    code: &'a mut [u8],
    sign: &'a mut [u8],
    query: &'a mut Query,
}

impl Kernel for Encode<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        self.coder.encode(self.x, self.code, self.sign, self.query);
    }
}

struct Ask<'a> {
    coder: &'a Coder,
    x: &'a [f32],
    item: bool,
    query: &'a mut Query,
}

impl Kernel for Ask<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        // SAFETY: `S` is the caller's promise.
        unsafe { self.coder.ask::<S>(self.x, self.item, self.query) };
    }
}
