"""Arguments that several parts of this package take; every error names its argument."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from simtile.search._arrays import as_array, as_count, as_integers

if TYPE_CHECKING:
    from numpy.typing import NDArray


def at_least_one(name: str, value: Any) -> int:
    count = as_count(name, value)
    if count == 0:
        raise ValueError(f"{name}: at least 1, got 0")
    return count


def number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """A finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: a number, got {type(value).__name__}")
    if not (low <= value <= high and math.isfinite(value)):
        wanted = f"at least {low:g}" if high == math.inf else f"in {low:g} to {high:g}"
        raise ValueError(f"{name}: {wanted} and finite, got {value}")
    return float(value)


def labels_of(name: str, value: Any, n: int) -> tuple[NDArray[np.int64], int]:
    """(N,) labels numbered from 0 in their order, and how many there are."""
    labels = as_integers(name, value)
    if len(labels) != n:
        raise ValueError(f"{name}: shape ({n},), got ({len(labels)},)")
    found, numbered = np.unique(labels, return_inverse=True)
    return numbered.astype(np.int64), len(found)


def doubles(name: str, value: Any, *, ndim: int) -> NDArray[np.float64]:
    """Finite float64 from any real dtype."""
    array = as_array(name, value)
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
        raise TypeError(f"{name}: real numbers, got {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{name}: {ndim} dimension{'s' if ndim > 1 else ''}, got shape {array.shape}")
    array = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: finite values, got NaN or infinity")
    return array


def lists_of_ids(name: str, value: Any) -> NDArray[np.int64]:
    """(rows, columns) of ids, -1 for none."""
    array = as_array(name, value)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: integers of two dimensions, got {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.int64)


def once_in_a_list(name: str, ids: NDArray[np.int64]) -> None:
    """No id twice in one row."""
    ordered = np.sort(ids, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        raise ValueError(f"{name}: an item once in a list, but list {np.flatnonzero(twice)[0]} has one twice")
