//! What a corpus is worth, and which of its items stand for it.

use super::arguments::{run, slice};
use super::search::{floats, threads};
use crate::error::{ArgumentError, length};
use crate::facility::{Chosen, Stored, Vectors};
use crate::importance::Retrieved;
use crate::simd::Isa;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

type Doubles<'py> = Bound<'py, PyArray1<f64>>;
type Integers<'py> = Bound<'py, PyArray1<i64>>;
type ChosenResult<'py> = (Integers<'py>, Doubles<'py>, Integers<'py>);

fn flat<'a, T: numpy::Element>(name: &str, array: &'a PyReadonlyArray2<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| PyTypeError::new_err(format!("{name}: wanted a C-contiguous array")))
}

fn chosen(py: Python<'_>, found: Chosen) -> ChosenResult<'_> {
    (found.ids.into_pyarray(py), found.gains.into_pyarray(py), found.owners.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (ids, utilities, weights, k, *, num_threads = 1))]
pub(super) fn importance<'py>(
    py: Python<'py>,
    ids: PyReadonlyArray2<'py, i64>,
    utilities: PyReadonlyArray2<'py, f64>,
    weights: PyReadonlyArray1<'py, f64>,
    k: usize,
    num_threads: usize,
) -> PyResult<(Doubles<'py>, Doubles<'py>)> {
    let m = ids.shape()[1];
    length("columns of utilities", m, utilities.shape()[1]).map_err(PyErr::from)?;
    let lists = Retrieved { ids: flat("ids", &ids)?, utilities: flat("utilities", &utilities)?, m };
    let weights = Some(weights);
    let weights = slice("weights", &weights)?.unwrap_or(&[]);
    let threads = threads(num_threads)?;
    let found = run(py, || crate::importance::importance(lists, weights, k, threads))?;
    Ok((found.values.into_pyarray(py), found.gradient.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (vectors, bias, unit, size, *, num_threads = 1, isa = None))]
pub(super) fn facility_vectors<'py>(
    py: Python<'py>,
    vectors: PyReadonlyArray2<'py, f32>,
    bias: PyReadonlyArray1<'py, f32>,
    unit: f32,
    size: usize,
    num_threads: usize,
    isa: Option<&str>,
) -> PyResult<ChosenResult<'py>> {
    let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
    let vectors = floats("vectors", &vectors)?;
    let bias = Some(bias);
    let bias = slice("bias", &bias)?.unwrap_or(&[]);
    let found =
        run(py, || crate::facility::facility_location(&mut Vectors::new(vectors, unit, bias, threads, isa)?, size))?;
    Ok(chosen(py, found))
}

#[pyfunction]
#[pyo3(signature = (similarity, size))]
pub(super) fn facility_dense<'py>(
    py: Python<'py>,
    similarity: PyReadonlyArray2<'py, f32>,
    size: usize,
) -> PyResult<ChosenResult<'py>> {
    let similarity = floats("similarity", &similarity)?;
    let found = run(py, || crate::facility::facility_location(&mut Stored::dense(similarity)?, size))?;
    Ok(chosen(py, found))
}

#[pyfunction]
#[pyo3(signature = (ids, scores, self_similarity, size))]
pub(super) fn facility_lists<'py>(
    py: Python<'py>,
    ids: PyReadonlyArray2<'py, i64>,
    scores: PyReadonlyArray2<'py, f32>,
    self_similarity: f32,
    size: usize,
) -> PyResult<ChosenResult<'py>> {
    let k = ids.shape()[1];
    if k == 0 {
        return Err(ArgumentError::Value("ids: wanted at least 1 column, got 0".into()).into());
    }
    length("columns of scores", k, scores.shape()[1]).map_err(PyErr::from)?;
    let (ids, scores) = (flat("ids", &ids)?, flat("scores", &scores)?);
    let found =
        run(py, || crate::facility::facility_location(&mut Stored::lists(ids, scores, k, self_similarity)?, size))?;
    Ok(chosen(py, found))
}
