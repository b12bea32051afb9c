//! What a caller can do wrong.

use thiserror::Error;

/// One rule a variant; the message names the argument, what was wanted and what came.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// No such instruction set, or not on this processor.
    #[error("isa: wanted one of isas(), got {0:?}")]
    Isa(String),
    /// An array has the wrong length.
    #[error("{name}: wanted length {wanted}, got {got}")]
    Length {
        /// The argument.
        name: &'static str,
        /// Its right length.
        wanted: usize,
        /// Its length.
        got: usize,
    },
    /// Two arguments that only make sense together.
    #[error("{0}: give both or neither")]
    Pair(&'static str),
    /// The partner of every row is wanted but there are fewer columns than rows.
    #[error("target: without one, y needs at least as many rows as x; got {n} for {m}")]
    Partner {
        /// Rows of x.
        m: usize,
        /// Rows of y.
        n: usize,
    },
    /// Row pointers that do not rise from 0 to the number of indices.
    #[error("indptr: wanted rising values from 0 to the length of indices ({0})")]
    Indptr(usize),
    /// A column that does not exist, or columns that are not sorted within a row.
    #[error("indices: wanted sorted column numbers in 0..{0} within each row")]
    Indices(usize),
    /// Prefixes that do not fit the columns.
    #[error("dims: wanted ascending numbers from 1 to the {0} columns of x, at least one")]
    Prefixes(usize),
    /// A name that is not among the choices.
    #[error("{name}: wanted one of {wanted}, got {got:?}")]
    Choice {
        /// The argument.
        name: &'static str,
        /// The choices.
        wanted: &'static str,
        /// What came.
        got: String,
    },
    /// Numbers that cannot be held.
    #[error("{name}: no memory for {rows} lists of {got} numbers")]
    Memory {
        /// The argument.
        name: &'static str,
        /// Lists.
        rows: usize,
        /// The length asked for.
        got: usize,
    },
    /// Anything else; says which argument.
    #[error("{0}")]
    Value(String),
}

/// `Ok` when `got == wanted`.
///
/// # Errors
/// [`ArgumentError::Length`] otherwise.
pub fn length(name: &'static str, wanted: usize, got: usize) -> Result<(), ArgumentError> {
    if wanted == got { Ok(()) } else { Err(ArgumentError::Length { name, wanted, got }) }
}
