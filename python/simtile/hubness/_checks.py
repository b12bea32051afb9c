"""Arguments of the reducer, checked once, with errors that name them."""

from __future__ import annotations

import math
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from simtile.hubness._methods import BANKLESS, DUAL, METHODS, SOFT, UNIT, Bank, Method, Settings
from simtile.hubness._summary import Metric, Precision
from simtile.search._arrays import as_array, as_matrix

COMPAT = {
    "qbnorm": frozenset({"inverted_softmax", "dynamic_inverted_softmax"}),
    "dbnorm": DUAL,
}
"""Methods whose released code has an output of its own."""


class NotFittedError(ValueError, AttributeError):
    """A method that needs ``fit`` first was called without it."""


class ShortListWarning(UserWarning):
    """Candidate lists are likely too short to hold the corrected best items."""


def settings_of(params: dict[str, Any]) -> Settings:
    """Checked parameters; ``beta_gallery=None`` is ``beta``."""
    method = params["method"]
    if method not in METHODS:
        raise ValueError(f"method: one of {', '.join(METHODS)}, got {method!r}")
    for name in ("k", "iterations", "activation_k"):
        value = params[name]
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}: an integer, got {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name}: at least 1, got {value}")
    beta_gallery = params["beta"] if params["beta_gallery"] is None else params["beta_gallery"]
    for name, value in (
        ("beta", params["beta"]), ("beta_gallery", beta_gallery), ("tau", params["tau"]), ("alpha", params["alpha"])
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise TypeError(f"{name}: a number, got {type(value).__name__}")
        if not (math.isfinite(value) and (value > 0 or name == "alpha")):
            raise ValueError(f"{name}: {'finite' if name == 'alpha' else 'positive and finite'}, got {value}")
    for name, choices in (("metric", get_args(Metric)), ("precision", get_args(Precision))):
        if params[name] not in choices:
            raise ValueError(f"{name}: one of {choices}, got {params[name]!r}")
    compat = params["compat"]
    if compat is not None and compat not in COMPAT:
        raise ValueError(f"compat: None or one of {tuple(COMPAT)}, got {compat!r}")
    if compat is not None and method not in COMPAT[compat]:
        raise ValueError(f"compat: {compat!r} goes with {', '.join(sorted(COMPAT[compat]))}, got method {method!r}")
    return Settings(
        method=cast("Method", method),
        # The engine computes with the float32 value of beta; the state is looked up by it.
        beta=float(np.float32(params["beta"])),
        beta_gallery=float(np.float32(beta_gallery)),
        k=int(params["k"]),
        alpha=float(params["alpha"]),
        tau=float(params["tau"]),
        iterations=int(params["iterations"]),
        activation_k=int(params["activation_k"]),
    )


def vectors(
    name: str, value: Any, *, columns: int | None = None, unit_for: Method | None = None
) -> NDArray[np.float32]:
    """Finite float32 rows (N, D); of unit length where an affine form needs it and the metric does not make them so."""
    rows = as_matrix(name, value, columns=columns)
    if unit_for in UNIT and len(rows):
        off = np.abs(np.einsum("ij,ij->i", rows, rows) - 1)
        if off.max() > 1e-3:
            raise ValueError(
                f'{name}: vectors of unit length for {unit_for!r} with metric="ip", '
                f"got squared norm {1 + off.max():.4g} or less in row {int(off.argmax())}"
            )
    return rows


def given_banks(
    settings: Settings, metric: str, query_bank: Any, gallery_bank: Any, columns: int
) -> dict[Bank, NDArray[np.float32]]:
    """The banks that came, each of at least one row, and none that the method does not look at."""
    takes: dict[Bank, bool] = {
        "query": settings.method not in BANKLESS,
        "gallery": settings.method in DUAL or settings.method == "sinkhorn",
    }
    banks: dict[Bank, NDArray[np.float32]] = {}
    given: tuple[tuple[Bank, Any], ...] = (("query", query_bank), ("gallery", gallery_bank))
    for bank, value in given:
        if value is None:
            continue
        name = f"{bank}_bank"
        if not takes[bank]:
            raise ValueError(f"{name}: method {settings.method!r} takes none")
        rows = vectors(name, value, columns=columns, unit_for=settings.method if metric == "ip" else None)
        if not len(rows):
            raise ValueError(f"{name}: at least 1 row, got none")
        banks[bank] = rows
    return banks


def further_betas(settings: Settings, betas: Any) -> tuple[float, ...]:
    """As the engine computes with them: rounded to float32."""
    found = tuple(float(np.float32(beta)) for beta in betas)
    if not all(math.isfinite(beta) and beta > 0 for beta in found):
        raise ValueError(f"betas: positive and finite, got {tuple(betas)}")
    if found and settings.method not in SOFT:
        raise ValueError(f"betas: for {', '.join(sorted(SOFT))}, got method {settings.method!r}")
    return found


def positions(name: str, value: Any, n: int) -> NDArray[np.int64]:
    """Different positions in 0..n-1."""
    array = np.asarray(value)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise TypeError(f"{name}: integers of one dimension, got {array.dtype} of shape {array.shape}")
    array = array.astype(np.int64)
    if len(array) and not (array.min() >= 0 and array.max() < n):
        raise ValueError(f"{name}: positions in 0..{n - 1}, got {array.min()}..{array.max()}")
    values, counts = np.unique(array, return_counts=True)
    if len(values) < len(array):
        raise ValueError(f"{name}: different positions, got {values[counts > 1][0]} twice")
    return array


def candidates(scores: Any, ids: Any, n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Candidate lists (M, C): finite scores, different ids of a row, -1 for padding."""
    values, items = np.asarray(as_array("scores", scores), np.float64), as_array("ids", ids)
    if values.ndim != 2 or values.shape != items.shape:
        raise ValueError(f"scores, ids: one shape (M, C), got {values.shape} and {items.shape}")
    if not np.issubdtype(items.dtype, np.integer):
        raise TypeError(f"ids: integers, got {items.dtype}")
    items = items.astype(np.int64)
    if items.size and not (items.min() >= -1 and items.max() < n):
        raise ValueError(f"ids: -1 or positions in 0..{n - 1}, got {items.min()}..{items.max()}")
    if not np.isfinite(values[items >= 0]).all():
        raise ValueError("scores: finite where ids are not -1, got NaN or infinity")
    sorted_items = np.sort(items, axis=1)
    twice = (sorted_items[:, 1:] == sorted_items[:, :-1]) & (sorted_items[:, 1:] >= 0)
    if twice.any():
        row = int(twice.any(axis=1).argmax())
        raise ValueError(f"ids: different ids in a row, got {sorted_items[row, 1:][twice[row]][0]} twice in row {row}")
    return values, items
