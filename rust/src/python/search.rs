//! Selections and statistics.

use super::arguments::{AnyMatrix, Common, Raw, Row, Stored, by_type, choice, matrix, run, same_columns, slice, zeros};
use super::graph::file_error;
use crate::directions::Directions;
use crate::error::ArgumentError;
use crate::exact::Metric;
use crate::moments::Stats;
use crate::pairs::{Diagonal, IdsMode};
use crate::scan::Product;
use crate::simd::Isa;
use crate::store::{FirstPass, Owner};
use crate::tile::{Bf16, Matrix};
use crate::topk::TopkArgs;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;

type TopKResult<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<i64>>);

#[pyfunction]
#[pyo3(signature = (x, y, k, *, y_scale = None, y_bias = None, **kwargs))]
pub(super) fn pair_topk<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    k: usize,
    y_scale: Row<'py, f32>,
    y_bias: Row<'py, f32>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<TopKResult<'py>> {
    fn typed<'py, E: Stored + Product>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        k: usize,
        args: &TopkArgs,
        common: &Common,
    ) -> PyResult<TopKResult<'py>> {
        let (x, y) = (E::view(x), E::view(y));
        same_columns(&x, &y)?;
        let (threads, isa) = (common.threads, common.isa);
        let out = run(py, || crate::topk::pair_topk(x, y, k, args, threads, isa))?;
        Ok((out.scores.into_pyarray(py).reshape([x.rows, k])?, out.ids.into_pyarray(py).reshape([x.rows, k])?))
    }
    let common = Common::new(kwargs)?;
    let pairs = common.pairs(false)?;
    if pairs.x_bias.or(pairs.y_bias).is_some()
        || pairs.x_ids.or(pairs.y_ids).is_some()
        || common.ids_mode != IdsMode::Exclude
        || pairs.threshold.is_some()
        || pairs.guide.is_some()
    {
        return Err(PyTypeError::new_err("pair_topk: takes no x_bias, x_ids, y_ids, ids_mode, threshold, guide"));
    }
    let args = TopkArgs {
        y_scale: slice("y_scale", &y_scale)?,
        y_bias: slice("y_bias", &y_bias)?,
        indptr: pairs.indptr,
        indices: pairs.indices,
        skip_diagonal: pairs.diagonal == Diagonal::Skip,
    };
    by_type!(x, y, typed(py, k, &args, &common))
}

type F64<'py> = Bound<'py, PyArray1<f64>>;
type StatsResult<'py> = (Bound<'py, PyArray2<f64>>, F64<'py>, F64<'py>, Bound<'py, PyArray2<f32>>);

fn stats_result(py: Python<'_>, out: Stats, (betas, k, rows): (usize, usize, usize)) -> PyResult<StatsResult<'_>> {
    Ok((
        out.lse.into_pyarray(py).reshape([betas, rows])?,
        out.mean.into_pyarray(py),
        out.var.into_pyarray(py),
        out.top.into_pyarray(py).reshape([k, rows])?,
    ))
}

#[pyfunction]
#[pyo3(signature = (bank, y, betas, k, *, num_threads = 1, isa = None))]
pub(super) fn pair_stats<'py>(
    py: Python<'py>,
    bank: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    betas: Vec<f32>,
    k: usize,
    num_threads: usize,
    isa: Option<&str>,
) -> PyResult<StatsResult<'py>> {
    fn typed<'py, E: Stored>(
        bank: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        (betas, k): (&[f32], usize),
        (threads, isa): (usize, Isa),
    ) -> PyResult<StatsResult<'py>> {
        let (bank, y) = (E::view(bank), E::view(y));
        same_columns(&bank, &y)?;
        let out = run(py, || crate::stats::pair_stats(bank, y, betas, k, threads, isa))?;
        stats_result(py, out, (betas.len(), k, y.rows))
    }
    let how = (threads(num_threads)?, Isa::named(isa)?);
    by_type!(bank, y, typed(py, (&betas, k), how))
}

pub(super) fn metric(name: &str) -> PyResult<Metric> {
    match name {
        "ip" => Ok(Metric::InnerProduct),
        "cosine" => Ok(Metric::Cosine),
        "l2" => Ok(Metric::SquaredL2),
        got => Err(choice("metric", "ip, cosine, l2", got)),
    }
}

pub(super) fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::InnerProduct => "ip",
        Metric::Cosine => "cosine",
        Metric::SquaredL2 => "l2",
    }
}

pub(super) fn threads(wanted: usize) -> PyResult<usize> {
    if wanted > 0 { Ok(wanted) } else { Err(PyValueError::new_err("num_threads: wanted at least 1, got 0")) }
}

/// Vectors prepared for exact search.
#[pyclass(frozen, module = "simtile._core")]
pub(super) struct ExactStore {
    store: crate::store::ExactStore,
}

pub(super) fn floats<'a>(name: &str, array: &'a PyReadonlyArray2<'_, f32>) -> PyResult<Matrix<'a, f32>> {
    let wrong = |_| PyTypeError::new_err(format!("{name}: wanted a C-contiguous array"));
    Ok(Matrix::new(array.as_slice().map_err(wrong)?, array.shape()[0], array.shape()[1]))
}

type SearchResult<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<i64>>, usize);

fn as_f32(py: Python<'_>, scores: &[f64]) -> PyResult<Vec<f32>> {
    let mut out = zeros::<f32>(py, scores.len())?;
    out.iter_mut().zip(scores).for_each(|(to, s)| *to = *s as f32);
    Ok(out)
}

type DoubleResult<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<i64>>);

type F32<'py> = Bound<'py, PyArray1<f32>>;
type I64<'py> = Bound<'py, PyArray1<i64>>;
type RangeResult<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<i64>>);

impl ExactStore {
    fn queries<'a>(&self, queries: &'a PyReadonlyArray2<'_, f32>) -> PyResult<Matrix<'a, f32>> {
        let queries = floats("queries", queries)?;
        if queries.columns != self.store.columns() {
            let (wanted, got) = (self.store.columns(), queries.columns);
            return Err(PyValueError::new_err(format!("queries: wanted {wanted} columns, got {got}")));
        }
        Ok(queries)
    }
}

#[pymethods]
impl ExactStore {
    #[new]
    #[pyo3(signature = (vectors, *, metric = "ip", codes = true, directions = None, leading = None, item_scale = None, item_bias = None,
        copy = true, num_threads = 1, isa = None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        vectors: PyReadonlyArray2<'_, f32>,
        metric: &str,
        codes: bool,
        directions: Option<PyReadonlyArray2<'_, f32>>,
        leading: Option<(usize, usize)>,
        item_scale: Row<'_, f32>,
        item_bias: Row<'_, f32>,
        copy: bool,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<ExactStore> {
        let metric = self::metric(metric)?;
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let (scale, bias) = (slice("item_scale", &item_scale)?, slice("item_bias", &item_bias)?);
        let owner: Owner = Box::new(vectors.as_unbound().clone_ref(py));
        let vectors = floats("vectors", &vectors)?;
        let matrix = directions.as_ref().map(|matrix| floats("directions", matrix)).transpose()?;
        let store = run(py, || {
            let first_pass = match matrix {
                _ if !codes => FirstPass::Floats,
                None => FirstPass::Codes,
                Some(matrix) => FirstPass::Along(Directions::new(matrix, leading.unwrap_or_default(), isa)?),
            };
            if copy {
                return crate::store::ExactStore::new(vectors, metric, scale, bias, first_pass, threads, isa);
            }
            // SAFETY: the array keeps its memory; that nobody writes it is what the caller promises with `copy=False`, as in all of NumPy
            // that looks at memory of another's.
            unsafe { crate::store::ExactStore::over((vectors, owner), metric, scale, bias, first_pass, threads, isa) }
        })?;
        Ok(ExactStore { store })
    }

    /// (rows, columns)
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.store.rows(), self.store.columns())
    }

    #[pyo3(signature = (queries, k, *, filter = None, indptr = None, indices = None, num_threads = 1, isa = None))]
    #[allow(clippy::too_many_arguments)]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
        filter: Option<PyReadonlyArray1<'py, u8>>,
        indptr: Row<'py, i64>,
        indices: Row<'py, i64>,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<SearchResult<'py>> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let queries = self.queries(&queries)?;
        let csr = match (slice("indptr", &indptr)?, slice("indices", &indices)?) {
            (None, None) => None,
            (Some(p), Some(c)) => Some((p, c)),
            _ => return Err(ArgumentError::Pair("indptr, indices").into()),
        };
        let filter = slice("filter", &filter)?;
        let found = run(py, || self.store.search(queries, k, filter, csr, threads, isa))?;
        let shape = [queries.rows, k];
        Ok((
            as_f32(py, &found.scores)?.into_pyarray(py).reshape(shape)?,
            found.ids.into_pyarray(py).reshape(shape)?,
            found.computed,
        ))
    }

    #[getter]
    fn metric(&self) -> &'static str {
        metric_name(self.store.metric)
    }

    /// Whether the first pass is over 8-bit codes.
    #[getter]
    fn codes(&self) -> bool {
        self.store.codes
    }

    /// How many directions the first pass takes in f32 and how many as codes; None: it takes all coordinates.
    #[getter]
    fn leading(&self) -> Option<(usize, usize)> {
        self.store.directions.as_ref().map(Directions::sizes)
    }

    /// (item_scale, item_bias), copies.
    #[getter]
    fn affine<'py>(&self, py: Python<'py>) -> (Option<F32<'py>>, Option<F32<'py>>) {
        let items = self.store.items();
        let copy = |values: Option<&[f32]>| values.map(|v| v.to_vec().into_pyarray(py));
        (copy(items.scale), copy(items.bias))
    }

    #[pyo3(signature = (path, ids, next_id))]
    fn save(&self, py: Python<'_>, path: PathBuf, ids: Row<'_, i64>, next_id: i64) -> PyResult<()> {
        let ids = slice("ids", &ids)?;
        run(py, || Ok(self.store.save(&path, ids, next_id)))?.map_err(|error| file_error(error, path))
    }

    /// (store, ids, next_id)
    #[staticmethod]
    #[pyo3(signature = (path, *, verify = true, num_threads = 1, isa = None))]
    fn load<'py>(
        py: Python<'py>,
        path: PathBuf,
        verify: bool,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<(ExactStore, Option<I64<'py>>, i64)> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let opened = run(py, || Ok(crate::store::ExactStore::open(&path, verify, threads, isa)))?;
        let (store, ids, next_id) = opened.map_err(|error| file_error(error, path))?;
        Ok((ExactStore { store }, ids.map(|ids| ids.into_pyarray(py)), next_id))
    }

    /// A copy of the vectors.
    fn vectors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let vectors = self.store.vectors();
        vectors.data.to_vec().into_pyarray(py).reshape([vectors.rows, vectors.columns])
    }

    /// As `search`, all scores in f64: what merging the results of several stores needs.
    #[pyo3(signature = (queries, k, *, num_threads = 1, isa = None))]
    fn search_f64<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<DoubleResult<'py>> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let queries = self.queries(&queries)?;
        let found = run(py, || self.store.search(queries, k, None, None, threads, isa))?;
        let shape = [queries.rows, k];
        Ok((found.scores.into_pyarray(py).reshape(shape)?, found.ids.into_pyarray(py).reshape(shape)?))
    }

    /// `pair_stats` of the rows' scores with all vectors, as the first pass sees them.
    #[pyo3(signature = (rows, betas, k, *, num_threads = 1, isa = None))]
    fn stats<'py>(
        &self,
        py: Python<'py>,
        rows: PyReadonlyArray2<'py, f32>,
        betas: Vec<f32>,
        k: usize,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<StatsResult<'py>> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let rows = self.queries(&rows)?;
        let out = run(py, || self.store.stats(rows, &betas, k, threads, isa))?;
        stats_result(py, out, (betas.len(), k, rows.rows))
    }

    /// The k best others of every vector.
    #[pyo3(signature = (k, *, num_threads = 1, isa = None))]
    fn neighbours<'py>(
        &self,
        py: Python<'py>,
        k: usize,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<SearchResult<'py>> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let found = run(py, || self.store.neighbours(k, threads, isa))?;
        let shape = [self.store.rows(), k];
        Ok((
            as_f32(py, &found.scores)?.into_pyarray(py).reshape(shape)?,
            found.ids.into_pyarray(py).reshape(shape)?,
            found.computed,
        ))
    }

    /// All vectors within a bound of each query, as (indptr, scores, ids).
    #[pyo3(signature = (queries, bound, *, filter = None, num_threads = 1, isa = None))]
    fn within<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        bound: f64,
        filter: Option<PyReadonlyArray1<'py, u8>>,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<RangeResult<'py>> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let queries = self.queries(&queries)?;
        let filter = slice("filter", &filter)?;
        let found = run(py, || self.store.within(queries, bound, filter, threads, isa))?;
        Ok((found.indptr.into_pyarray(py), as_f32(py, &found.scores)?.into_pyarray(py), found.ids.into_pyarray(py)))
    }
}
