"""Arrays or CPU tensors as rows of finite float64, checked by name."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.search._arrays import as_array, as_integers

Float: TypeAlias = NDArray[np.float64]


def as_rows(name: str, value: Any, columns: int | None = None) -> Float:
    """(N, D) float64; with ``columns`` given, of so many. Raises TypeError or ValueError naming the argument."""
    rows = np.asarray(as_array(name, value), np.float64)
    if rows.ndim != 2 or rows.shape[1] != (columns or max(rows.shape[1], 1)):
        raise ValueError(f"{name}: shape (N, {columns or 'D'}), got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: finite values, got NaN or infinity")
    return rows


def unit(rows: Float) -> Float:
    """Rows divided by their length; a zero row stays."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))


def as_indptr(name: str, value: Any, total: int) -> NDArray[np.int64]:
    """(M + 1,) offsets from 0 to ``total`` that rise: no list is empty. Raises TypeError or ValueError by name."""
    offsets = as_integers(name, value)
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 1).any():
        raise ValueError(f"{name}: offsets that rise from 0 to {total}, no list empty")
    return offsets
