//! `simtile._core`: the only folder that knows Python. Signatures and meaning: `python/simtile/_core.pyi`.

mod arguments;
mod corpus;
mod gradients;
mod graph;
mod nested;
mod reductions;
mod reserve;
mod search;

use crate::simd::Isa;
use pyo3::prelude::*;

#[pyfunction]
fn isas() -> Vec<&'static str> {
    Isa::ALL.into_iter().filter(|i| i.available()).map(Isa::name).collect()
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(isas, m)?)?;
    m.add_function(wrap_pyfunction!(reductions::pair_dot, m)?)?;
    m.add_function(wrap_pyfunction!(reductions::pair_lse, m)?)?;
    m.add_function(wrap_pyfunction!(reductions::nested_lse, m)?)?;
    m.add_function(wrap_pyfunction!(nested::nested_grad, m)?)?;
    m.add_function(wrap_pyfunction!(nested::nested_nll, m)?)?;
    m.add_function(wrap_pyfunction!(gradients::pair_grad, m)?)?;
    m.add_function(wrap_pyfunction!(gradients::pair_nll, m)?)?;
    m.add_function(wrap_pyfunction!(gradients::pair_softplus, m)?)?;
    m.add_function(wrap_pyfunction!(reductions::pair_rank, m)?)?;
    m.add_function(wrap_pyfunction!(reductions::pair_scores, m)?)?;
    m.add_function(wrap_pyfunction!(search::pair_topk, m)?)?;
    m.add_function(wrap_pyfunction!(search::pair_stats, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::importance, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::facility_vectors, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::facility_dense, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::facility_lists, m)?)?;
    m.add_class::<search::ExactStore>()?;
    m.add_class::<graph::GraphStore>()?;
    m.add("IndexFileError", m.py().get_type::<graph::IndexFileError>())?;
    Ok(())
}
