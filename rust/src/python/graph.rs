//! The graph index.

use super::arguments::{Row, run, run_whole, slice};
use super::search::{floats, metric, metric_name, threads};
use crate::file::FileError;
use crate::graph::{Graph, Wanted};
use crate::simd::Isa;
use crate::stop::Stopped;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::RwLock;

type Found<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<i64>>);

/// A graph that many threads may search, or one may change.
#[pyclass(frozen, module = "simtile._core")]
pub(super) struct GraphStore {
    graph: RwLock<Graph>,
}

#[pymethods]
impl GraphStore {
    #[new]
    #[pyo3(signature = (vectors, *, metric = "ip", degree = 48, breadth = 128, seed = 0, num_threads = 1, isa = None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        vectors: PyReadonlyArray2<'_, f32>,
        metric: &str,
        degree: usize,
        breadth: usize,
        seed: u64,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<GraphStore> {
        let (kind, isa, threads) = (self::metric(metric)?, Isa::named(isa)?, threads(num_threads)?);
        let vectors = floats("vectors", &vectors)?;
        let graph = run(py, || Graph::build(vectors, kind, (degree, breadth), seed, threads, isa))?;
        Ok(GraphStore { graph: RwLock::new(graph) })
    }

    /// Live items.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.peek(py, Graph::len)
    }

    /// Columns.
    #[getter]
    fn dim(&self, py: Python<'_>) -> PyResult<usize> {
        self.peek(py, Graph::dim)
    }

    /// Bytes besides the vectors.
    #[getter]
    fn graph_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.peek(py, Graph::graph_bytes)
    }

    /// What the next item's id will be.
    #[getter]
    fn next_id(&self, py: Python<'_>) -> PyResult<i64> {
        self.peek(py, Graph::next_id)
    }

    #[getter]
    fn metric(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.peek(py, Graph::metric).map(metric_name)
    }

    /// Ids of all items, rising.
    fn ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        Ok(self.peek(py, Graph::ids)?.into_pyarray(py))
    }

    /// The vectors of some items.
    fn vectors<'py>(&self, py: Python<'py>, ids: PyReadonlyArray1<'py, i64>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let ids = ids.as_slice()?;
        let rows = run(py, || self.read(|graph| graph.vectors_of(ids)))?;
        rows.into_pyarray(py).reshape([ids.len(), self.dim(py)?])
    }

    #[pyo3(signature = (queries, k, ef, *, filter = None, exact = false, num_threads = 1, isa = None))]
    #[allow(clippy::too_many_arguments)]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
        ef: usize,
        filter: Row<'py, u8>,
        exact: bool,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<Found<'py>> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let queries = floats("queries", &queries)?;
        let wanted = Wanted { k, ef, filter: slice("filter", &filter)?, exact };
        let found = run(py, || self.read(|graph| graph.search(queries, wanted, threads, isa)))?;
        let shape = [queries.rows, k];
        Ok((found.scores.into_pyarray(py).reshape(shape)?, found.ids.into_pyarray(py).reshape(shape)?))
    }

    /// Add items; the first of their ids.
    #[pyo3(signature = (vectors, *, num_threads = 1, isa = None))]
    fn add(
        &self,
        py: Python<'_>,
        vectors: PyReadonlyArray2<'_, f32>,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<i64> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let vectors = floats("vectors", &vectors)?;
        run_whole(py, || self.change(|graph| graph.add(vectors, threads, isa)))
    }

    #[pyo3(signature = (ids, *, num_threads = 1, isa = None))]
    fn remove(
        &self,
        py: Python<'_>,
        ids: PyReadonlyArray1<'_, i64>,
        num_threads: usize,
        isa: Option<&str>,
    ) -> PyResult<()> {
        let (isa, threads) = (Isa::named(isa)?, threads(num_threads)?);
        let ids = ids.as_slice()?;
        run_whole(py, || self.change(|graph| graph.remove(ids, threads, isa)))
    }

    fn compact(&self, py: Python<'_>) -> PyResult<()> {
        run_whole(py, || {
            self.change(Graph::compact);
            Ok(())
        })
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        run(py, || Ok(self.read(|graph| graph.save(&path))))?.map_err(|error| file_error(error, path))
    }

    #[staticmethod]
    #[pyo3(signature = (path, *, verify = true))]
    fn load(py: Python<'_>, path: PathBuf, verify: bool) -> PyResult<GraphStore> {
        let graph = run(py, || Ok(Graph::open(&path, verify)))?.map_err(|error| file_error(error, path))?;
        Ok(GraphStore { graph: RwLock::new(graph) })
    }
}

create_exception!(simtile._core, IndexFileError, PyValueError, "A file that is not a whole index of a known version.");

pub(super) fn file_error(error: FileError, path: PathBuf) -> PyErr {
    match error {
        // Python picks the kind by the number.
        FileError::Io(error) if error.raw_os_error().is_some() => {
            PyOSError::new_err((error.raw_os_error(), error.to_string(), path))
        }
        FileError::Io(error) => error.into(),
        other => IndexFileError::new_err(other.to_string()),
    }
}

impl GraphStore {
    /// A search sees the graph before or after a change, never within one. A change that ran out of memory, or panicked by our own
    /// fault, may have left half of itself.
    fn read<T>(&self, work: impl FnOnce(&Graph) -> T) -> T {
        work(&self.graph.read().unwrap_or_else(|_| Stopped::Broken.leave()))
    }

    fn change<T>(&self, work: impl FnOnce(&mut Graph) -> T) -> T {
        work(&mut self.graph.write().unwrap_or_else(|_| Stopped::Broken.leave()))
    }

    /// A number of the graph. Not with the GIL in hand: a change that is waited for may wait for a search, and that for the GIL.
    fn peek<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Graph) -> T + Send) -> PyResult<T> {
        run_whole(py, || Ok(self.read(work)))
    }
}
