//! The losses and their gradients.

use super::arguments::*;
use crate::error::ArgumentError;
use crate::grad::{Loss, NllOut, Wanted, pair_grad as grad};
use crate::tile::{Bf16, Matrix};
use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Arrays for the gradients that are wanted, kept as vectors until the engine is done with them.
pub(super) struct Gradients<E: Stored> {
    x: Vec<E::Raw>,
    y: Vec<E::Raw>,
    x_bias: Vec<f32>,
    y_bias: Vec<f32>,
    shape: (usize, usize, usize),
    want: [bool; 4],
}

pub(super) type GradResult<'py> =
    (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>, f64, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

impl<E: Stored> Gradients<E> {
    pub(super) fn new(py: Python<'_>, x: &Matrix<E>, y: &Matrix<E>, want: [bool; 4]) -> PyResult<Gradients<E>>
    where
        E::Raw: Default,
    {
        let matrix = |wanted: bool, len: usize| zeros::<E::Raw>(py, if wanted { len } else { 0 });
        let bias = |wanted: bool, len: usize| zeros::<f32>(py, if wanted { len } else { 0 });
        Ok(Gradients {
            x: matrix(want[0], x.data.len())?,
            y: matrix(want[1], y.data.len())?,
            x_bias: bias(want[2], x.rows)?,
            y_bias: bias(want[3], y.rows)?,
            shape: (x.rows, y.rows, x.columns),
            want,
        })
    }

    pub(super) fn wanted(&mut self) -> Wanted<'_, E> {
        Wanted {
            x: E::view_mut(&mut self.x),
            y: E::view_mut(&mut self.y),
            x_bias: &mut self.x_bias,
            y_bias: &mut self.y_bias,
        }
    }

    pub(super) fn into_python(self, py: Python<'_>, dscale: f64) -> PyResult<GradResult<'_>> {
        let (m, n, d) = self.shape;
        let two = |wanted: bool, v: Vec<E::Raw>, rows: usize| {
            wanted.then(|| v.into_pyarray(py).reshape([rows, d]).map(Bound::into_any)).transpose()
        };
        let one = |wanted: bool, v: Vec<f32>| wanted.then(|| v.into_pyarray(py).into_any());
        let [want_x, want_y, want_x_bias, want_y_bias] = self.want;
        Ok((
            two(want_x, self.x, m)?,
            two(want_y, self.y, n)?,
            dscale,
            one(want_x_bias, self.x_bias),
            one(want_y_bias, self.y_bias),
        ))
    }
}

#[pyfunction]
#[pyo3(signature = (x, y, scale, *, row_lse = None, row_grad = None, column_lse = None, column_grad = None, diagonal_grad = None, stash = None,
    want_x = true, want_y = true, want_x_bias = false, want_y_bias = false, **kwargs))]
#[allow(clippy::too_many_arguments)]
pub(super) fn pair_grad<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    row_lse: Row<'py, f32>,
    row_grad: Row<'py, f32>,
    column_lse: Row<'py, f32>,
    column_grad: Row<'py, f32>,
    diagonal_grad: Row<'py, f32>,
    stash: Option<PyReadonlyArray2<'py, u16>>,
    want_x: bool,
    want_y: bool,
    want_x_bias: bool,
    want_y_bias: bool,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<GradResult<'py>> {
    type Side<'a> = Option<(&'a [f32], &'a [f32])>;
    #[allow(clippy::too_many_arguments)]
    fn typed<'py, E: Stored<Raw: Default>>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        scale: f32,
        (row, column): (Side, Side),
        diagonal: Option<&[f32]>,
        stash: &[u16],
        want: [bool; 4],
        common: &Common,
    ) -> PyResult<GradResult<'py>> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(false)?);
        same_columns(&x, &y)?;
        let mut out = Gradients::<E>::new(py, &x, &y, want)?;
        let wanted = out.wanted();
        let loss = Loss::Softmax { row, column, stash };
        let (workspace, threads, isa) = (common.workspace, common.threads, common.isa);
        let dscale = run(py, || grad(x, y, scale, &pairs, loss, diagonal, wanted, workspace, threads, isa))?;
        out.into_python(py, dscale)
    }
    let side = |names, lse, grad| match (lse, grad) {
        (Some(lse), Some(grad)) => Ok(Some((lse, grad))),
        (None, None) => Ok(None),
        _ => Err(ArgumentError::Pair(names)),
    };
    let row = side("row_lse, row_grad", slice("row_lse", &row_lse)?, slice("row_grad", &row_grad)?)?;
    let column =
        side("column_lse, column_grad", slice("column_lse", &column_lse)?, slice("column_grad", &column_grad)?)?;
    let diagonal = slice("diagonal_grad", &diagonal_grad)?;
    let stash = match &stash {
        None => &[][..],
        Some(s) => s.as_slice().map_err(|_| PyTypeError::new_err("stash: wanted a C-contiguous array"))?,
    };
    let common = Common::new(kwargs)?;
    by_type!(
        x,
        y,
        typed(py, scale, (row, column), diagonal, stash, [want_x, want_y, want_x_bias, want_y_bias], &common)
    )
}

type F32Row<'py> = Bound<'py, PyArray1<f32>>;
type NllResult<'py> = (
    F32Row<'py>,
    F32Row<'py>,
    F32Row<'py>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    f64,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
);

#[pyfunction]
#[pyo3(signature = (x, y, scale, *, link, weight = None, target = None, want_x = true, want_y = true, want_x_bias = false, want_y_bias = false, **kwargs))]
#[allow(clippy::too_many_arguments)]
pub(super) fn pair_nll<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    link: &str,
    weight: Row<'py, f32>,
    target: Row<'py, f32>,
    want_x: bool,
    want_y: bool,
    want_x_bias: bool,
    want_y_bias: bool,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<NllResult<'py>> {
    #[allow(clippy::too_many_arguments)]
    fn typed<'py, E: Stored<Raw: Default>>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        scale: f32,
        softplus: bool,
        (weight, target): (Option<&[f32]>, Option<&[f32]>),
        want: [bool; 4],
        common: &Common,
    ) -> PyResult<NllResult<'py>> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(false)?);
        same_columns(&x, &y)?;
        let (m, n) = (x.rows, y.rows);
        if target.is_none() && n < m {
            return Err(ArgumentError::Partner { m, n }.into());
        }
        let mut gradients = Gradients::<E>::new(py, &x, &y, want)?;
        let wanted = gradients.wanted();
        let (workspace, threads, isa) = (common.workspace, common.threads, common.isa);
        let (dscale, loss, lse, coefficient) = run(py, || {
            let (mut loss, mut lse, mut coefficient) = (vec![0f32; m], vec![0f32; m], vec![0f32; m]);
            let ones = vec![1f32; if weight.is_none() { m } else { 0 }];
            let own = match target {
                Some(_) => vec![],
                None => {
                    let mut own = crate::tile::own_scores(x, y, scale, threads);
                    let biases = [pairs.x_bias, pairs.y_bias];
                    for bias in biases.into_iter().flatten() {
                        own.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
                    }
                    own
                }
            };
            let nll = Loss::Nll {
                weight: weight.unwrap_or(&ones),
                target: target.unwrap_or(&own),
                softplus,
                own_target: target.is_none(),
                out: NllOut { loss: &mut loss, lse: &mut lse, coefficient: &mut coefficient },
            };
            let dscale = grad(x, y, scale, &pairs, nll, None, wanted, workspace, threads, isa)?;
            Ok((dscale, loss, lse, coefficient))
        })?;
        let (dx, dy, dscale, dx_bias, dy_bias) = gradients.into_python(py, dscale)?;
        Ok((
            loss.into_pyarray(py),
            lse.into_pyarray(py),
            coefficient.into_pyarray(py),
            dx,
            dy,
            dscale,
            dx_bias,
            dy_bias,
        ))
    }
    let softplus = match link {
        "lse" => false,
        "softplus" => true,
        got => return Err(choice("link", "lse, softplus", got)),
    };
    let (weight, target) = (slice("weight", &weight)?, slice("target", &target)?);
    let common = Common::new(kwargs)?;
    by_type!(x, y, typed(py, scale, softplus, (weight, target), [want_x, want_y, want_x_bias, want_y_bias], &common))
}

type SoftplusResult<'py> = (
    F32Row<'py>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    f64,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
);

#[pyfunction]
#[pyo3(signature = (x, y, scale, *, weight = None, want_x = true, want_y = true, want_x_bias = false, want_y_bias = false, **kwargs))]
#[allow(clippy::too_many_arguments)]
pub(super) fn pair_softplus<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    weight: Row<'py, f32>,
    want_x: bool,
    want_y: bool,
    want_x_bias: bool,
    want_y_bias: bool,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<SoftplusResult<'py>> {
    fn typed<'py, E: Stored<Raw: Default>>(
        x: &Raw<'py, E>,
        y: &Raw<'py, E>,
        py: Python<'py>,
        scale: f32,
        weight: Option<&[f32]>,
        want: [bool; 4],
        common: &Common,
    ) -> PyResult<SoftplusResult<'py>> {
        let (x, y, pairs) = (E::view(x), E::view(y), common.pairs(true)?);
        same_columns(&x, &y)?;
        let mut gradients = Gradients::<E>::new(py, &x, &y, want)?;
        let wanted = gradients.wanted();
        let (workspace, threads, isa) = (common.workspace, common.threads, common.isa);
        let (dscale, rows) = run(py, || {
            let ones = vec![1f32; if weight.is_none() { x.rows } else { 0 }];
            let mut rows = vec![0f32; x.rows];
            let loss = Loss::Softplus { weight: weight.unwrap_or(&ones), rows: &mut rows };
            Ok((grad(x, y, scale, &pairs, loss, None, wanted, workspace, threads, isa)?, rows))
        })?;
        let (dx, dy, dscale, dx_bias, dy_bias) = gradients.into_python(py, dscale)?;
        Ok((rows.into_pyarray(py), dx, dy, dscale, dx_bias, dy_bias))
    }
    let weight = slice("weight", &weight)?;
    let common = Common::new(kwargs)?;
    by_type!(x, y, typed(py, scale, weight, [want_x, want_y, want_x_bias, want_y_bias], &common))
}
