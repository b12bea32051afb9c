//! `simtile._core`: the only file that knows Python. Signatures and meaning: `python/simtile/_core.pyi`.

use crate::error::ArgumentError;
use crate::grad::{Loss, NllOut, Wanted, pair_grad as grad};
use crate::pairs::{Diagonal, IdsMode, PairArgs};
use crate::simd::Isa;
use crate::tile::{Bf16, Elem, Matrix};
use numpy::{
    Element, IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// P and scores of a chunk: 384 rows of 24 blocks, or of 40,000 columns where whole rows are kept.
const WORKSPACE: usize = 64 << 20;

impl From<ArgumentError> for PyErr {
    fn from(error: ArgumentError) -> PyErr {
        PyValueError::new_err(error.to_string())
    }
}

/// The two types of a matrix.
pub(crate) enum AnyMatrix<'py> {
    F32(PyReadonlyArray2<'py, f32>),
    Bf16(PyReadonlyArray2<'py, u16>),
}

fn matrix<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<AnyMatrix<'py>> {
    let wanted = "a C-contiguous 2-D array of float32 or uint16 (bfloat16 bits)";
    let contiguous = |ok: bool| {
        if ok { Ok(()) } else { Err(PyTypeError::new_err(format!("{name}: wanted {wanted}, got another layout"))) }
    };
    if let Ok(a) = value.cast::<PyArray2<f32>>() {
        contiguous(a.is_c_contiguous())?;
        return Ok(AnyMatrix::F32(a.readonly()));
    }
    if let Ok(a) = value.cast::<PyArray2<u16>>() {
        contiguous(a.is_c_contiguous())?;
        return Ok(AnyMatrix::Bf16(a.readonly()));
    }
    Err(PyTypeError::new_err(format!("{name}: wanted {wanted}, got {}", value.get_type().name()?)))
}

/// Elements as NumPy holds them.
trait Stored: Elem {
    type Raw: Element + Copy;
    fn view<'a>(array: &'a PyReadonlyArray2<'_, Self::Raw>) -> Matrix<'a, Self>;
    fn view_mut(raw: &mut [Self::Raw]) -> &mut [Self];
}

impl Stored for f32 {
    type Raw = f32;
    fn view<'a>(array: &'a PyReadonlyArray2<'_, f32>) -> Matrix<'a, f32> {
        Matrix::new(array.as_slice().unwrap_or(&[]), array.shape()[0], array.shape()[1])
    }
    fn view_mut(raw: &mut [f32]) -> &mut [f32] {
        raw
    }
}

impl Stored for Bf16 {
    type Raw = u16;
    fn view<'a>(array: &'a PyReadonlyArray2<'_, u16>) -> Matrix<'a, Bf16> {
        let raw = array.as_slice().unwrap_or(&[]);
        // SAFETY: Bf16 is a transparent u16.
        let data = unsafe { std::slice::from_raw_parts(raw.as_ptr().cast::<Bf16>(), raw.len()) };
        Matrix::new(data, array.shape()[0], array.shape()[1])
    }
    fn view_mut(raw: &mut [u16]) -> &mut [Bf16] {
        // SAFETY: Bf16 is a transparent u16.
        unsafe { std::slice::from_raw_parts_mut(raw.as_mut_ptr().cast::<Bf16>(), raw.len()) }
    }
}

/// A 1-D array, when given.
type Row<'py, T> = Option<PyReadonlyArray1<'py, T>>;

fn slice<'a, T: Element>(name: &str, row: &'a Row<'_, T>) -> PyResult<Option<&'a [T]>> {
    match row {
        None => Ok(None),
        Some(r) => {
            r.as_slice().map(Some).map_err(|_| PyTypeError::new_err(format!("{name}: wanted a contiguous 1-D array")))
        }
    }
}

/// The keyword arguments that every function shares, taken out of `**kwargs`.
struct Common<'py> {
    x_bias: Row<'py, f32>,
    y_bias: Row<'py, f32>,
    x_ids: Row<'py, i64>,
    y_ids: Row<'py, i64>,
    ids_mode: IdsMode,
    indptr: Row<'py, i64>,
    indices: Row<'py, i64>,
    diagonal: Diagonal,
    workspace: usize,
    threads: usize,
    isa: Isa,
}

impl<'py> Common<'py> {
    fn new(kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Common<'py>> {
        let mut common = Common {
            x_bias: None,
            y_bias: None,
            x_ids: None,
            y_ids: None,
            ids_mode: IdsMode::Exclude,
            indptr: None,
            indices: None,
            diagonal: Diagonal::Keep,
            workspace: WORKSPACE,
            threads: 1,
            isa: Isa::best(),
        };
        for (key, value) in kwargs.into_iter().flatten() {
            let key: String = key.extract()?;
            match key.as_str() {
                "x_bias" => common.x_bias = row(&key, &value)?,
                "y_bias" => common.y_bias = row(&key, &value)?,
                "x_ids" => common.x_ids = row(&key, &value)?,
                "y_ids" => common.y_ids = row(&key, &value)?,
                "indptr" => common.indptr = row(&key, &value)?,
                "indices" => common.indices = row(&key, &value)?,
                "ids_mode" => {
                    common.ids_mode = match value.extract::<&str>()? {
                        "exclude" => IdsMode::Exclude,
                        "only" => IdsMode::Only,
                        "flip" => IdsMode::Flip,
                        got => return Err(choice("ids_mode", "exclude, only, flip", got)),
                    }
                }
                "diagonal" => {
                    common.diagonal = match value.extract::<&str>()? {
                        "keep" => Diagonal::Keep,
                        "skip" => Diagonal::Skip,
                        "flip" => Diagonal::Flip,
                        got => return Err(choice("diagonal", "keep, skip, flip", got)),
                    }
                }
                "workspace_bytes" => common.workspace = value.extract()?,
                "num_threads" => {
                    common.threads = value.extract()?;
                    if common.threads == 0 {
                        return Err(PyValueError::new_err("num_threads: wanted at least 1, got 0"));
                    }
                }
                "isa" => common.isa = Isa::named(value.extract::<Option<String>>()?.as_deref())?,
                _ => return Err(PyTypeError::new_err(format!("unexpected keyword argument {key:?}"))),
            }
        }
        Ok(common)
    }

    fn pairs(&self, allow_flip: bool) -> PyResult<PairArgs<'_>> {
        if !allow_flip && (self.ids_mode == IdsMode::Flip || self.diagonal == Diagonal::Flip) {
            return Err(PyValueError::new_err("ids_mode, diagonal: \"flip\" is for pair_softplus"));
        }
        Ok(PairArgs {
            x_bias: slice("x_bias", &self.x_bias)?,
            y_bias: slice("y_bias", &self.y_bias)?,
            x_ids: slice("x_ids", &self.x_ids)?,
            y_ids: slice("y_ids", &self.y_ids)?,
            ids_mode: self.ids_mode,
            indptr: slice("indptr", &self.indptr)?,
            indices: slice("indices", &self.indices)?,
            diagonal: self.diagonal,
        })
    }
}

fn choice(name: &'static str, wanted: &'static str, got: &str) -> PyErr {
    ArgumentError::Choice { name, wanted, got: got.into() }.into()
}

fn row<'py, T: Element>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Row<'py, T>> {
    if value.is_none() {
        return Ok(None);
    }
    match value.cast::<PyArray1<T>>() {
        Ok(a) => Ok(Some(a.readonly())),
        Err(_) => {
            let wanted = std::any::type_name::<T>();
            Err(PyTypeError::new_err(format!(
                "{name}: wanted a 1-D array of {wanted}, got {}",
                value.get_type().name()?
            )))
        }
    }
}

/// Without the GIL; a panic (ours, by definition) becomes a RuntimeError.
fn run<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T, ArgumentError> + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work)))
        .map_err(|_| PyRuntimeError::new_err("internal error in simtile._core, please report it"))?
        .map_err(PyErr::from)
}

fn same_columns<A: Stored>(x: &Matrix<A>, y: &Matrix<A>) -> PyResult<()> {
    if x.columns == y.columns {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("y: wanted {} columns as x has, got {}", x.columns, y.columns)))
}

/// Call `$f::<f32>` or `$f::<Bf16>` by the type of both matrices.
macro_rules! by_type {
    ($x:expr, $y:expr, $f:ident($($arg:expr),*)) => {
        match (matrix("x", $x)?, matrix("y", $y)?) {
            (AnyMatrix::F32(x), AnyMatrix::F32(y)) => $f::<f32>(&x, &y, $($arg),*),
            (AnyMatrix::Bf16(x), AnyMatrix::Bf16(y)) => $f::<Bf16>(&x, &y, $($arg),*),
            _ => Err(PyTypeError::new_err("x, y: wanted the same dtype")),
        }
    };
}

type Raw<'py, E> = PyReadonlyArray2<'py, <E as Stored>::Raw>;

#[pyfunction]
fn isas() -> Vec<&'static str> {
    Isa::ALL.into_iter().filter(|i| i.available()).map(Isa::name).collect()
}

#[pyfunction]
#[pyo3(signature = (x, y, scale, *, num_threads = 1))]
fn pair_dot<'py>(
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
fn pair_lse<'py>(
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
        let mut stash = vec![0u16; if wanted.2 { x.rows * y.rows } else { 0 }];
        let out =
            run(py, || crate::lse::pair_lse(x, y, scale, &pairs, (wanted.0, wanted.1), &mut stash, threads, isa))?;
        let stash = wanted.2.then(|| stash.into_pyarray(py).reshape([x.rows, y.rows])).transpose()?;
        Ok((out.row.map(|r| r.into_pyarray(py)), out.column.map(|c| c.into_pyarray(py)), stash))
    }
    let common = Common::new(kwargs)?;
    by_type!(x, y, typed(py, scale, (want_row, want_column, want_stash), &common))
}

/// Arrays for the gradients that are wanted, kept as vectors until the engine is done with them.
struct Gradients<E: Stored> {
    x: Vec<E::Raw>,
    y: Vec<E::Raw>,
    x_bias: Vec<f32>,
    y_bias: Vec<f32>,
    shape: (usize, usize, usize),
    want: [bool; 4],
}

type GradResult<'py> =
    (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>, f64, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

impl<E: Stored> Gradients<E> {
    fn new(x: &Matrix<E>, y: &Matrix<E>, want: [bool; 4]) -> Gradients<E>
    where
        E::Raw: Default,
    {
        let zeros = |wanted: bool, len: usize| vec![E::Raw::default(); if wanted { len } else { 0 }];
        let bias = |wanted: bool, len: usize| vec![0f32; if wanted { len } else { 0 }];
        Gradients {
            x: zeros(want[0], x.data.len()),
            y: zeros(want[1], y.data.len()),
            x_bias: bias(want[2], x.rows),
            y_bias: bias(want[3], y.rows),
            shape: (x.rows, y.rows, x.columns),
            want,
        }
    }

    fn wanted(&mut self) -> Wanted<'_, E> {
        Wanted {
            x: E::view_mut(&mut self.x),
            y: E::view_mut(&mut self.y),
            x_bias: &mut self.x_bias,
            y_bias: &mut self.y_bias,
        }
    }

    fn into_python(self, py: Python<'_>, dscale: f64) -> PyResult<GradResult<'_>> {
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
fn pair_grad<'py>(
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
        let mut out = Gradients::<E>::new(&x, &y, want);
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
fn pair_nll<'py>(
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
        let mut gradients = Gradients::<E>::new(&x, &y, want);
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
fn pair_softplus<'py>(
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
        let mut gradients = Gradients::<E>::new(&x, &y, want);
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

type RankResult<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>);

#[pyfunction]
#[pyo3(signature = (x, y, scale, target = None, **kwargs))]
fn pair_rank<'py>(
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

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(isas, m)?)?;
    m.add_function(wrap_pyfunction!(pair_dot, m)?)?;
    m.add_function(wrap_pyfunction!(pair_lse, m)?)?;
    m.add_function(wrap_pyfunction!(pair_grad, m)?)?;
    m.add_function(wrap_pyfunction!(pair_nll, m)?)?;
    m.add_function(wrap_pyfunction!(pair_softplus, m)?)?;
    m.add_function(wrap_pyfunction!(pair_rank, m)?)?;
    Ok(())
}
