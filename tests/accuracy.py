"""How a result is judged, and the shapes, temperatures and inputs it is judged on.

The rule (:func:`assert_as_accurate`): against float64, a result may be at most twice as wrong as plain torch in the
same dtype. No tolerance is ever tuned to a number that happened to pass.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

REGIMES = [
    pytest.param(1, 1, 1, id="one-pair"),
    pytest.param(5, 7, 3, id="below-a-tile"),
    pytest.param(12, 32, 64, id="one-12x32-tile"),
    pytest.param(384, 384, 64, id="exact-blocks-of-384"),
    pytest.param(768, 768, 32, id="several-exact-blocks"),
    pytest.param(97, 131, 45, id="ragged-in-every-dimension"),
    pytest.param(385, 389, 129, id="just-past-a-block"),
    pytest.param(17, 401, 33, id="many-more-columns"),
    pytest.param(401, 17, 33, id="many-more-rows"),
    pytest.param(1, 300, 16, id="one-row"),
    pytest.param(300, 1, 16, id="one-column"),
    pytest.param(64, 48, 1, id="one-coordinate"),
    pytest.param(130, 66, 384, id="sentence-embedding-width"),
]
"""(M, N, D), one shape a reason; the id is the reason."""

TEMPERATURES = (0.003, 0.01, 0.05, 0.07, 0.5, 1.0, 10.0)
"""From below CLIP's clamp of 0.01 to nearly flat."""


def assert_as_accurate(
    actual: object,
    naive: object,
    exact: ArrayLike,
    factor: float = 2.0,
    floor: float = 4.0,
    magnitude: float | None = None,
) -> None:
    """Assert that ``actual`` is at most ``factor`` times as far from ``exact`` as ``naive`` is.

    Parameters
    ----------
    actual : array or Tensor      the result on trial
    naive : array or Tensor      plain torch's, from the same rounded inputs in the same dtype
    exact : float64 array      the truth for these rounded inputs (see :func:`rounded`)
    factor : float      how much worse than plain torch is still right
    floor : float      an error of this many ulp of ``magnitude``, in the dtype of ``actual``, always passes
    magnitude : float      what an ulp is measured at: default the largest finite ``|exact|``. A difference of large
        numbers (a loss near 0 from scores near 300) cannot be better than their rounding: pass the largest score.

    Notes
    -----
    The error of an array is its largest absolute one, so luck in single entries averages out; where plain torch is
    exact by luck (one pair, D = 1) the floor keeps its error of zero from being the bar. Where ``exact`` is infinite,
    ``actual`` must be the same infinity. Entries where plain torch itself overflows to inf or NaN lower no bar: its
    error is taken over the others. NaN in ``actual`` always fails.
    """
    got, plain, truth = _float64(actual), _float64(naive), np.asarray(exact)
    assert truth.dtype == np.float64, "the truth is float64"
    assert got.shape == plain.shape == truth.shape, f"shapes: actual {got.shape}, naive {plain.shape}, {truth.shape}"
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(got[~finite], truth[~finite])
    if not finite.any():
        return
    size = float(np.abs(truth[finite]).max()) if magnitude is None else magnitude
    least = floor * _eps(actual) * size
    off = _distance(got, truth, finite)
    plain_off = _distance(plain, truth, finite & np.isfinite(plain))
    allowed = max(factor * float(plain_off.max()), least)
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(off), np.inf, off))), off.shape)
    assert bool((off <= allowed).all()), (
        f"error {off[worst]:.3e} at {tuple(map(int, worst))} (got {got[worst]!r}, exact {truth[worst]!r}); allowed "
        f"{allowed:.3e} = max({factor:g} x {plain_off.max():.3e} of plain torch, {floor:g} ulp = {least:.3e})"
    )


def rounded(values: ArrayLike, dtype: torch.dtype) -> tuple[torch.Tensor, Float]:
    """The values in ``dtype``, and exactly these rounded values in float64: the truth is computed from the latter."""
    tensor = torch.from_numpy(np.array(values, dtype=np.float64)).to(dtype)
    return tensor, tensor.double().numpy().copy()


def unit_rows(rng: np.random.Generator, rows: int, D: int) -> Float:
    """(rows, D) float64 directions, uniform on the sphere."""
    x = rng.standard_normal((rows, D))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def with_duplicates(rng: np.random.Generator, rows: int, D: int) -> Float:
    """Unit rows that are all copies of a third of them: exact ties in every row of scores."""
    return unit_rows(rng, max(rows // 3, 1), D)[rng.integers(0, max(rows // 3, 1), rows)]


def with_zero_rows(rng: np.random.Generator, rows: int, D: int) -> Float:
    """Unit rows of which every third, the first included, is zero: what normalising a dead embedding leaves."""
    x = unit_rows(rng, rows, D)
    x[::3] = 0.0
    return x


def saturated_pairs(rng: np.random.Generator, rows: int, D: int, noise: float = 1e-3) -> tuple[Float, Float]:
    """Query and key with query_i nearly key_i: losses near 0, where ``p - 1`` keeps no correct digit."""
    query = unit_rows(rng, rows, D)
    key = query + noise * rng.standard_normal((rows, D)) / np.sqrt(D)
    return query, key / np.linalg.norm(key, axis=1, keepdims=True)


def opposed_row(rng: np.random.Generator, M: int, N: int, D: int) -> tuple[Float, Float]:
    """x and y where row 0 of x has cosine -1 with every row of y, the other rows about +1.

    A log-sum-exp shifted by the largest possible score underflows in row 0 to log(0), from a scale of 44 in float32.
    """
    pole = unit_rows(rng, 1, D)
    x, y = pole + 1e-3 * rng.standard_normal((M, D)), np.repeat(pole, N, axis=0)
    x[0] = -pole
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def _float64(values: object) -> Float:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _distance(values: Float, truth: Float, where: NDArray[np.bool_]) -> Float:
    return np.abs(np.where(where, values, 0.0) - np.where(where, truth, 0.0))


def _eps(values: object) -> float:
    if isinstance(values, torch.Tensor):
        return torch.finfo(values.dtype).eps
    return float(np.finfo(np.asarray(values).dtype).eps)


def tensors(*arrays: NDArray[np.generic]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


def csr(kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(indptr, indices) of a boolean matrix."""
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
    return indptr, np.nonzero(kept)[1]
