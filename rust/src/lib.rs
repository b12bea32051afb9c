//! Reductions over a similarity matrix `S = scale · X Yᵀ` that is never stored.
//!
//! [`simd`] one vector interface for all instruction sets → [`tile`] packed-panel matrix products → [`strip`] a few rows of scores,
//! with biases and left-out pairs → [`logsum`], [`lse`], [`grad`], [`rank`]: what is done with a strip while it is in the cache.
//! Work is cut into blocks whose sizes do not depend on the number of threads, and partial results are merged in block order:
//! the same bits come out for any number of threads.

pub mod buffer;
mod coded_stats;
mod coder;
pub mod directions;
pub mod error;
pub mod exact;
pub mod facility;
pub mod file;
pub mod grad;
pub mod graph;
mod hits;
pub mod importance;
mod largest;
pub mod limits;
pub mod logsum;
pub mod lse;
pub mod moments;
pub mod neighbours;
pub mod pairs;
mod passed;
pub mod prefixes;
mod prepare;

#[cfg(feature = "python")]
mod python;

pub mod quant;
pub mod range;
pub mod rank;
pub mod scan;
pub mod scores;
pub mod search;
pub mod select;
pub mod simd;
pub mod stats;
pub mod stop;
pub mod store;
mod store_file;
pub mod strip;
pub mod team;
pub mod tile;
pub mod topk;

pub use error::ArgumentError;
pub use simd::Isa;
