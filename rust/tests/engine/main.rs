//! The tile engine against float64. One program, as every one that uses the kernels compiles them all again.

mod exact;
mod nested;
pub mod whole_rows;
