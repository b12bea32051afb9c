//! Log-sum-exp, own scores and ranks.

use super::arguments::*;
use super::search::threads;
use crate::prefixes::Prefixes;
use crate::simd::Isa;
use crate::tile::Bf16;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

#[pyfunction]
#[pyo3(signature = (x, y, scale, *, num_threads = 1))]
pub(super) fn pair_dot<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    num_threads: usize,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    fn typed<'py, E: Stored>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        scale: f32,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let (x, y) = (E::view(x), E::view(y));
        same_columns(&x, &y)?;
        Ok(run(py, || Ok(crate::tile::own_scores(x, y, scale, threads)))?.into_pyarray(py))
    }
    by_type!(x, y, typed(py, scale, num_threads))
}

type LseResult<'py> =
    (Option<Bound<'py, PyArray1<f32>>>, Option<Bound<'py, PyArray1<f32>>>, Option<Bound<'py, PyArray2<u16>>>);

#[pyfunction]
#[pyo3(signature = (x, y, scale, *, want_row = true, want_column = false, want_stash = false, **kwargs))]
#[allow(clippy::too_many_arguments)]
pub(super) fn pair_lse<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    want_row: bool,
    want_column: bool,
    want_stash: bool,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<LseResult<'py>> {
    fn typed<'py, E: Stored>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        scale: f32,
        wanted: (bool, bool, bool),
        common: &Common,
    ) -> PyResult<LseResult<'py>> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(false)?);
        same_columns(&x, &y)?;
        let (threads, isa) = (common.threads, common.isa);
        let mut stash = zeros::<u16>(py, if wanted.2 { x.rows * y.rows } else { 0 })?;
        let out =
            run(py, || crate::lse::pair_lse(x, y, scale, &pairs, (wanted.0, wanted.1), &mut stash, threads, isa))?;
        let stash = wanted.2.then(|| stash.into_pyarray(py).reshape([x.rows, y.rows])).transpose()?;
        Ok((out.row.map(|r| r.into_pyarray(py)), out.column.map(|c| c.into_pyarray(py)), stash))
    }
    let common = Common::new(kwargs)?;
    by_type!(x, y, typed(py, scale, (want_row, want_column, want_stash), &common))
}

type Nested<'py> = Option<Bound<'py, PyArray2<f32>>>;

#[pyfunction]
#[pyo3(signature = (x, y, dims, scale, *, normalize = true, want_row = true, want_column = false, want_own = false, **kwargs))]
#[allow(clippy::too_many_arguments)]
pub(super) fn nested_lse<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    dims: Vec<usize>,
    scale: f32,
    normalize: bool,
    want_row: bool,
    want_column: bool,
    want_own: bool,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<(Nested<'py>, Nested<'py>, Nested<'py>)> {
    fn typed<'py, E: Stored>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        (dims, normalize): (&[usize], bool),
        scale: f32,
        wanted: (bool, bool, bool),
        common: &Common,
    ) -> PyResult<(Nested<'py>, Nested<'py>, Nested<'py>)> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(false)?);
        same_columns(&x, &y)?;
        without_biases(&pairs)?;
        let (threads, isa) = (common.threads, common.isa);
        let (out, own) = run(py, || {
            let prefixes = Prefixes::new(x, y, dims, normalize)?;
            let sides = (wanted.0, wanted.1);
            let out = crate::lse::nested_lse(x, y, scale, &prefixes, &pairs, sides, threads, isa)?;
            Ok((out, wanted.2.then(|| prefixes.own_scores(x, y, scale))))
        })?;
        let shaped = |values: Option<Vec<f32>>, rows: usize| {
            values.map(|v| v.into_pyarray(py).reshape([dims.len(), rows])).transpose()
        };
        Ok((shaped(out.row, x.rows)?, shaped(out.column, y.rows)?, shaped(own, x.rows.min(y.rows))?))
    }
    let common = Common::new(kwargs)?;
    by_type!(x, y, typed(py, (&dims, normalize), scale, (want_row, want_column, want_own), &common))
}

type RankResult<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>);

#[pyfunction]
#[pyo3(signature = (x, y, scale, target = None, **kwargs))]
pub(super) fn pair_rank<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    target: Row<'py, f32>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<RankResult<'py>> {
    fn typed<'py, E: Stored>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        scale: f32,
        target: Option<&[f32]>,
        common: &Common,
    ) -> PyResult<RankResult<'py>> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(false)?);
        same_columns(&x, &y)?;
        let (threads, isa) = (common.threads, common.isa);
        let ranks = run(py, || crate::rank::pair_rank(x, y, scale, target, &pairs, threads, isa))?;
        Ok((ranks.greater.into_pyarray(py), ranks.equal.into_pyarray(py)))
    }
    let target = slice("target", &target)?;
    let common = Common::new(kwargs)?;
    by_type!(x, y, typed(py, scale, target, &common))
}

#[pyfunction]
#[pyo3(signature = (x, y, scale = 1.0, *, num_threads = 1, isa = None))]
pub(super) fn pair_scores<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    num_threads: usize,
    isa: Option<&str>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    fn typed<'py, E: Stored>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        scale: f32,
        (threads, isa): (usize, Isa),
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (x, y) = (E::view(x), E::view(y));
        same_columns(&x, &y)?;
        let mut out = zeros::<f32>(py, x.rows * y.rows)?;
        run(py, || {
            crate::scores::pair_scores(x, y, scale, &mut out, threads, isa);
            Ok(())
        })?;
        out.into_pyarray(py).reshape([x.rows, y.rows])
    }
    let how = (threads(num_threads)?, Isa::named(isa)?);
    by_type!(x, y, typed(py, scale, how))
}
