//! Arguments that come from Python: arrays without a copy, typed errors, and the keywords that every function shares.

use crate::error::{ArgumentError, length};
use crate::limits::GuideArgs;
use crate::pairs::{Diagonal, IdsMode, PairArgs};
use crate::simd::Isa;
use crate::stop::{Stopped, filled, watched};
use crate::tile::{Bf16, Elem, Matrix};
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// P and scores of a chunk: 384 rows of 24 blocks, or of 40,000 columns where whole rows are kept.
const WORKSPACE: usize = 64 << 20;

impl From<ArgumentError> for PyErr {
    fn from(error: ArgumentError) -> PyErr {
        match error {
            ArgumentError::Memory { .. } => PyMemoryError::new_err(error.to_string()),
            _ => PyValueError::new_err(error.to_string()),
        }
    }
}

/// The two types of a matrix.
pub(super) enum AnyMatrix<'py> {
    F32(PyReadonlyArray2<'py, f32>),
    Bf16(PyReadonlyArray2<'py, u16>),
}

pub(super) fn matrix<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<AnyMatrix<'py>> {
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
pub(super) trait Stored: Elem {
    type Raw: Element + Copy + Send;
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
pub(super) type Row<'py, T> = Option<PyReadonlyArray1<'py, T>>;

pub(super) fn slice<'a, T: Element>(name: &str, row: &'a Row<'_, T>) -> PyResult<Option<&'a [T]>> {
    match row {
        None => Ok(None),
        Some(r) => {
            r.as_slice().map(Some).map_err(|_| PyTypeError::new_err(format!("{name}: wanted a contiguous 1-D array")))
        }
    }
}

/// The keyword arguments that every function shares, taken out of `**kwargs`.
pub(super) struct Common<'py> {
    pub(super) x_bias: Row<'py, f32>,
    pub(super) y_bias: Row<'py, f32>,
    pub(super) x_ids: Row<'py, i64>,
    pub(super) y_ids: Row<'py, i64>,
    pub(super) ids_mode: IdsMode,
    pub(super) indptr: Row<'py, i64>,
    pub(super) indices: Row<'py, i64>,
    pub(super) diagonal: Diagonal,
    pub(super) threshold: Row<'py, f32>,
    pub(super) guide_x: Option<AnyMatrix<'py>>,
    pub(super) guide_y: Option<AnyMatrix<'py>>,
    pub(super) workspace: usize,
    pub(super) threads: usize,
    pub(super) isa: Isa,
}

impl<'py> Common<'py> {
    pub(super) fn new(kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Common<'py>> {
        let mut common = Common {
            x_bias: None,
            y_bias: None,
            x_ids: None,
            y_ids: None,
            ids_mode: IdsMode::Exclude,
            indptr: None,
            indices: None,
            diagonal: Diagonal::Keep,
            threshold: None,
            guide_x: None,
            guide_y: None,
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
                        "above" => Diagonal::Above,
                        got => return Err(choice("diagonal", "keep, skip, flip, above", got)),
                    }
                }
                "threshold" => common.threshold = row(&key, &value)?,
                "guide_x" if !value.is_none() => common.guide_x = Some(matrix(&key, &value)?),
                "guide_y" if !value.is_none() => common.guide_y = Some(matrix(&key, &value)?),
                "guide_x" | "guide_y" => {}
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

    pub(super) fn pairs(&self, allow_flip: bool) -> PyResult<PairArgs<'_>> {
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
            threshold: slice("threshold", &self.threshold)?,
            guide: self.guide()?,
        })
    }

    fn guide(&self) -> PyResult<Option<GuideArgs<'_>>> {
        Ok(Some(match (&self.guide_x, &self.guide_y) {
            (None, None) => return Ok(None),
            (Some(AnyMatrix::F32(x)), Some(AnyMatrix::F32(y))) => {
                let (x, y) = (f32::view(x), f32::view(y));
                length("columns of guide_y", x.columns, y.columns)?;
                GuideArgs::F32(x, y)
            }
            (Some(AnyMatrix::Bf16(x)), Some(AnyMatrix::Bf16(y))) => {
                let (x, y) = (Bf16::view(x), Bf16::view(y));
                length("columns of guide_y", x.columns, y.columns)?;
                GuideArgs::Bf16(x, y)
            }
            (Some(_), Some(_)) => return Err(PyTypeError::new_err("guide_x, guide_y: wanted the same dtype")),
            _ => return Err(ArgumentError::Pair("guide_x, guide_y").into()),
        }))
    }
}

pub(super) fn choice(name: &'static str, wanted: &'static str, got: &str) -> PyErr {
    ArgumentError::Choice { name, wanted, got: got.into() }.into()
}

pub(super) fn row<'py, T: Element>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Row<'py, T>> {
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

/// Without the GIL, looking for signals between blocks: Ctrl-C leaves `work`, which must not change anything that outlasts it.
pub(super) fn run<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T, ArgumentError> + Send) -> PyResult<T> {
    run_whole(py, || watched(signalled, work))
}

/// Without the GIL, to the end: signals are seen afterwards. A panic (ours, by definition) becomes a RuntimeError.
pub(super) fn run_whole<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, ArgumentError> + Send,
) -> PyResult<T> {
    let started = || {
        super::reserve::fill().unwrap_or_else(|stopped| stopped.leave());
        work()
    };
    match py.detach(|| catch_unwind(AssertUnwindSafe(started))) {
        Ok(done) => done.map_err(PyErr::from),
        Err(reason) => Err(match reason.downcast_ref() {
            Some(Stopped::Unwanted) => PyErr::take(py).unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
            Some(Stopped::Memory(0)) => PyMemoryError::new_err("out of memory"),
            Some(Stopped::Memory(bytes)) => PyMemoryError::new_err(format!("no memory for {bytes} bytes")),
            Some(Stopped::Threads(wanted)) => {
                PyRuntimeError::new_err(format!("num_threads: the system does not give {wanted} threads"))
            }
            Some(Stopped::Broken) => {
                PyRuntimeError::new_err("an earlier change of this index failed midway: load or build it again")
            }
            Some(Stopped::Elsewhere) | None => {
                PyRuntimeError::new_err("internal error in simtile._core, please report it")
            }
        }),
    }
}

/// `len` zeros, or a MemoryError.
pub(super) fn zeros<T: Clone + Default + Send>(py: Python<'_>, len: usize) -> PyResult<Vec<T>> {
    run_whole(py, || Ok(filled(T::default(), len)))
}

/// Run the handlers of signals that have come. What one raises is left as this thread's current exception.
fn signalled() -> bool {
    Python::attach(|py| py.check_signals().map_err(|error| error.restore(py)).is_err())
}

pub(super) fn same_columns<A: Stored>(x: &Matrix<A>, y: &Matrix<A>) -> PyResult<()> {
    if x.columns == y.columns {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("y: wanted {} columns as x has, got {}", x.columns, y.columns)))
}

/// What prefixes do not have.
pub(super) fn without_biases(pairs: &PairArgs) -> PyResult<()> {
    match pairs.x_bias.or(pairs.y_bias) {
        None => Ok(()),
        Some(_) => Err(PyTypeError::new_err("x_bias, y_bias: not with prefixes of the coordinates")),
    }
}

pub(super) type Raw<'py, E> = PyReadonlyArray2<'py, <E as Stored>::Raw>;

/// Call `$f::<f32>` or `$f::<Bf16>` by the type of both matrices.
macro_rules! by_type {
    ($x:expr, $y:expr, $f:ident($($arg:expr),*)) => {
        match (matrix("x", $x)?, matrix("y", $y)?) {
            (AnyMatrix::F32(x), AnyMatrix::F32(y)) => $f::<f32>(&x, &y, $($arg),*),
            (AnyMatrix::Bf16(x), AnyMatrix::Bf16(y)) => $f::<Bf16>(&x, &y, $($arg),*),
            _ => Err(pyo3::exceptions::PyTypeError::new_err("x, y: wanted the same dtype")),
        }
    };
}
pub(super) use by_type;
