//! Gradients for prefixes of the coordinates.

use super::arguments::*;
use super::gradients::Gradients;
use crate::error::ArgumentError;
use crate::grad::{Loss, NllOut, Wanted, nested_grad as grad};
use crate::prefixes::Prefixes;
use crate::tile::Bf16;
use numpy::{IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

type Matrix32<'py> = Bound<'py, PyArray2<f32>>;
type Grads<'py> = (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>, f64);

/// A (K, ·) array, when given.
type Rows<'py> = Option<PyReadonlyArray2<'py, f32>>;

fn flat<'a>(name: &str, rows: &'a Rows<'_>) -> PyResult<Option<&'a [f32]>> {
    let wrong = |_| PyTypeError::new_err(format!("{name}: wanted a C-contiguous array"));
    rows.as_ref().map(|r| r.as_slice().map_err(wrong)).transpose()
}

#[pyfunction]
#[pyo3(signature = (x, y, dims, scale, *, normalize = true, row_lse = None, row_grad = None, column_lse = None, column_grad = None,
    diagonal_grad = None, want_x = true, want_y = true, **kwargs))]
#[allow(clippy::too_many_arguments)]
pub(super) fn nested_grad<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    dims: Vec<usize>,
    scale: f32,
    normalize: bool,
    row_lse: Rows<'py>,
    row_grad: Rows<'py>,
    column_lse: Rows<'py>,
    column_grad: Rows<'py>,
    diagonal_grad: Rows<'py>,
    want_x: bool,
    want_y: bool,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Grads<'py>> {
    type Side<'a> = Option<(&'a [f32], &'a [f32])>;
    #[allow(clippy::too_many_arguments)]
    fn typed<'py, E: Stored<Raw: Default>>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        (dims, normalize): (&[usize], bool),
        scale: f32,
        (row, column): (Side, Side),
        diagonal: Option<&[f32]>,
        want: [bool; 4],
        common: &Common,
    ) -> PyResult<Grads<'py>> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(false)?);
        same_columns(&x, &y)?;
        without_biases(&pairs)?;
        let mut out = Gradients::<E>::new(py, &x, &y, want)?;
        let wanted: Wanted<E> = out.wanted();
        let (workspace, threads, isa) = (common.workspace, common.threads, common.isa);
        let dscale = run(py, || {
            let prefixes = Prefixes::new(x, y, dims, normalize)?;
            let loss = Loss::Softmax { row, column, stash: &[] };
            grad(x, y, scale, &prefixes, &pairs, loss, diagonal, wanted, workspace, threads, isa)
        })?;
        let (dx, dy, dscale, _, _) = out.into_python(py, dscale)?;
        Ok((dx, dy, dscale))
    }
    let side = |names, lse, grad| match (lse, grad) {
        (Some(lse), Some(grad)) => Ok(Some((lse, grad))),
        (None, None) => Ok(None),
        _ => Err(ArgumentError::Pair(names)),
    };
    let row = side("row_lse, row_grad", flat("row_lse", &row_lse)?, flat("row_grad", &row_grad)?)?;
    let column = side("column_lse, column_grad", flat("column_lse", &column_lse)?, flat("column_grad", &column_grad)?)?;
    let diagonal = flat("diagonal_grad", &diagonal_grad)?;
    let common = Common::new(kwargs)?;
    let want = [want_x, want_y, false, false];
    by_type!(x, y, typed(py, (&dims, normalize), scale, (row, column), diagonal, want, &common))
}

type NllResult<'py> = (Matrix32<'py>, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>, f64);

#[pyfunction]
#[pyo3(signature = (x, y, dims, scale, weight, *, normalize = true, want_x = true, want_y = true, **kwargs))]
#[allow(clippy::too_many_arguments)]
pub(super) fn nested_nll<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    dims: Vec<usize>,
    scale: f32,
    weight: PyReadonlyArray2<'py, f32>,
    normalize: bool,
    want_x: bool,
    want_y: bool,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<NllResult<'py>> {
    #[allow(clippy::too_many_arguments)]
    fn typed<'py, E: Stored<Raw: Default>>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        (dims, normalize): (&[usize], bool),
        scale: f32,
        weight: &[f32],
        want: [bool; 4],
        common: &Common,
    ) -> PyResult<NllResult<'py>> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(false)?);
        same_columns(&x, &y)?;
        without_biases(&pairs)?;
        let (m, n) = (x.rows, y.rows);
        if n < m {
            return Err(ArgumentError::Partner { m, n }.into());
        }
        let mut gradients = Gradients::<E>::new(py, &x, &y, want)?;
        let wanted = gradients.wanted();
        let (workspace, threads, isa) = (common.workspace, common.threads, common.isa);
        let (dscale, loss) = run(py, || {
            let prefixes = Prefixes::new(x, y, dims, normalize)?;
            let target = prefixes.own_scores(x, y, scale);
            let empty = || vec![0f32; dims.len() * m];
            let (mut loss, mut lse, mut coefficient) = (empty(), empty(), empty());
            let out = NllOut { loss: &mut loss, lse: &mut lse, coefficient: &mut coefficient };
            let nll = Loss::Nll { weight, target: &target, softplus: true, own_target: true, out };
            let dscale = grad(x, y, scale, &prefixes, &pairs, nll, None, wanted, workspace, threads, isa)?;
            Ok((dscale, loss))
        })?;
        let (dx, dy, dscale, _, _) = gradients.into_python(py, dscale)?;
        Ok((loss.into_pyarray(py).reshape([dims.len(), m])?, dx, dy, dscale))
    }
    let weight = weight.as_slice().map_err(|_| PyTypeError::new_err("weight: wanted a C-contiguous array"))?;
    let common = Common::new(kwargs)?;
    by_type!(x, y, typed(py, (&dims, normalize), scale, weight, [want_x, want_y, false, false], &common))
}
