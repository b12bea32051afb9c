"""Does the Rust engine compute what the float64 specification says, on this machine? Behind ``simtile doctor``.

A few small problems, not a test suite: they catch a wrong instruction set, a miscompiled wheel, a faulty processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from simtile import _core
from simtile.kernels import reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    Pairs = Iterator[tuple[NDArray[np.generic] | None, NDArray[np.float64] | None]]

F64 = NDArray[np.float64]
Matrix = NDArray[np.float32] | NDArray[np.uint16]  # float32, or the bits of bfloat16
Dtype = Literal["float32", "bfloat16"]

SCALE = 20.0
# One pair; less than a tile; ragged in every dimension, several tiles wide.
SHAPES = ((1, 1, 1), (5, 7, 3), (131, 259, 100))
# Largest error, relative to max(1, largest exact value). Values are float32 whatever the inputs: scores of up to 20 are
# rounded to 2e-6. Gradients come back in the inputs' dtype: bfloat16 keeps 8 bits, of P as well as of the result.
VALUE_LIMIT = 1e-5
GRADIENT_LIMIT: dict[Dtype, float] = {"float32": 1e-5, "bfloat16": 1e-2}


@dataclass(frozen=True)
class Check:
    """One result of the engine beside the exact one."""

    op: str
    dtype: Dtype
    shape: tuple[int, int, int]
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for NaN

    def __str__(self) -> str:
        return f"{self.op} {self.dtype} {self.shape}: error {self.error:.1e}, allowed {self.limit:.0e}"


@dataclass(frozen=True)
class Problem:
    """Unit rows x (M, D), y (N, D), biases and ids: what the engine gets, and the same values in float64."""

    dtype: Dtype
    x: Matrix
    y: Matrix
    exact_x: F64
    exact_y: F64
    x_bias: NDArray[np.float32]
    y_bias: NDArray[np.float32]
    x_ids: NDArray[np.int64]
    y_ids: NDArray[np.int64]


def run(isa: str) -> list[Check]:
    """All checks of one instruction set (one of ``simtile._core.isas()``)."""
    checks = []
    for shape in SHAPES:
        for dtype in GRADIENT_LIMIT:
            problem = _problem(shape, dtype)
            for op, pairs, limit in (
                ("pair_lse", _lse(problem, isa), VALUE_LIMIT),
                ("pair_nll", _nll(problem, isa), VALUE_LIMIT),
                ("pair_softplus", _softplus(problem, isa), VALUE_LIMIT),
                ("pair_grad", _gradient(problem, isa), GRADIENT_LIMIT[dtype]),
            ):
                error = max(_error(got, exact) for got, exact in pairs)
                checks.append(Check(op, dtype, shape, error, limit))
    return checks


def _lse(p: Problem, isa: str) -> Pairs:
    """Rows and columns with biases, pairs of equal ids left out; two threads must give the bits of one."""
    row, column, _ = _core.pair_lse(
        p.x, p.y, SCALE, want_column=True, x_bias=p.x_bias, y_bias=p.y_bias, x_ids=p.x_ids, y_ids=p.y_ids, isa=isa
    )
    again, _, _ = _core.pair_lse(
        p.x, p.y, SCALE, x_bias=p.x_bias, y_bias=p.y_bias, x_ids=p.x_ids, y_ids=p.y_ids, num_threads=2, isa=isa
    )
    exact = _exact_lse(p)
    yield row, exact[0]
    yield column, exact[1]
    same = row is not None and again is not None and np.array_equal(row, again)
    yield row if same else None, exact[0]


def _nll(p: Problem, isa: str) -> Pairs:
    """Row losses against the pair's own partner, which is left out of the sum and added back by the link."""
    n = min(len(p.x), len(p.y))
    loss = _core.pair_nll(p.x[:n], p.y, SCALE, link="softplus", diagonal="skip", isa=isa)[0]
    yield loss, reference.pair_nll(p.exact_x[:n], p.exact_y, None, link="softplus", reduction="none", scale=SCALE)


def _softplus(p: Problem, isa: str) -> Pairs:
    rows = _core.pair_softplus(p.x, p.y, SCALE, y_bias=p.y_bias, want_x=False, want_y=False, isa=isa)[0]
    yield rows, reference.pair_softplus(p.exact_x, p.exact_y, reduction="none", scale=SCALE, y_bias=p.y_bias)


def _gradient(p: Problem, isa: str) -> Pairs:
    """dX = scale P Y and dY = scale Pᵀ X of Σ row + Σ column: P = e^(s - row) + e^(s - column) on the kept pairs."""
    row, column = _exact_lse(p)
    s = reference.scores(p.exact_x, p.exact_y, SCALE, p.x_bias, p.y_bias)
    kept = ~reference.left_out(*s.shape, x_ids=p.x_ids, y_ids=p.y_ids)
    exact = np.zeros_like(s)
    exact[kept] = (np.exp(s - row[:, None]) + np.exp(s - column))[kept]
    d_x, d_y, *_ = _core.pair_grad(
        p.x,
        p.y,
        SCALE,
        row_lse=row.astype(np.float32),
        row_grad=np.ones(len(row), np.float32),
        column_lse=column.astype(np.float32),
        column_grad=np.ones(len(column), np.float32),
        x_bias=p.x_bias,
        y_bias=p.y_bias,
        x_ids=p.x_ids,
        y_ids=p.y_ids,
        isa=isa,
    )
    yield _widened(d_x), SCALE * exact @ p.exact_y
    yield _widened(d_y), SCALE * exact.T @ p.exact_x


def _exact_lse(p: Problem) -> tuple[F64, F64]:
    row, column = reference.pair_lse(
        p.exact_x,
        p.exact_y,
        scale=SCALE,
        x_bias=p.x_bias,
        y_bias=p.y_bias,
        x_ids=p.x_ids,
        y_ids=p.y_ids,
        direction="both",
    )
    assert row is not None
    assert column is not None
    return row, column


def _problem(shape: tuple[int, int, int], dtype: Dtype) -> Problem:
    M, N, D = shape
    random = np.random.default_rng(M)
    x, y = (reference.unit(random.standard_normal((rows, D))).astype(np.float32) for rows in (M, N))
    given_x, given_y = (x, y) if dtype == "float32" else (_bfloat16(x), _bfloat16(y))
    return Problem(
        dtype,
        given_x,
        given_y,
        _widened(given_x),
        _widened(given_y),
        x_bias=random.standard_normal(M).astype(np.float32),
        y_bias=random.standard_normal(N).astype(np.float32),
        # One in eleven pairs is left out; the single pair of (1, 1, 1) stays.
        x_ids=np.arange(M) % 11,
        y_ids=np.arange(1, N + 1) % 11,
    )


def _bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of x rounded to bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _widened(x: Matrix | None) -> F64:
    """float32, or the bits of bfloat16, in float64; NaN for a result that is missing."""
    if x is None:
        return np.array(np.nan)
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def _error(got: NDArray[np.generic] | None, exact: F64 | None) -> float:
    """Largest difference relative to max(1, largest finite exact value); infinite if the shapes differ."""
    if got is None or exact is None or got.shape != exact.shape:
        return np.inf
    values = got.astype(np.float64)
    with np.errstate(invalid="ignore"):  # -inf beside -inf is right
        difference = np.where(values == exact, 0.0, np.abs(values - exact))
    largest = np.abs(exact[np.isfinite(exact)]).max(initial=1.0)
    return float(difference.max(initial=0.0) / largest)
