"""What comes in and goes out: NumPy arrays, or torch tensors without importing torch; checks name the argument."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: an integer, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name}: at least 0, got {value}")
    if value > sys.maxsize:
        raise ValueError(f"{name}: at most {sys.maxsize}, got {value}")
    return int(value)


def thread_count(wanted: int | None) -> int:
    if wanted is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(wanted, bool) or not isinstance(wanted, (int, np.integer)):
        raise TypeError(f"num_threads: an integer or None, got {type(wanted).__name__}")
    if wanted < 1:
        raise ValueError(f"num_threads: at least 1, got {wanted}")
    return int(wanted)


def is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # a tensor came in only if torch is loaded
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(name: str, value: Any) -> NDArray[Any]:
    """``value`` as a NumPy array, without a copy where the dtype has one."""
    if isinstance(value, np.ndarray):
        return value
    if not is_tensor(value):
        raise TypeError(f"{name}: a NumPy array or a torch tensor, got {type(value).__name__}")
    if value.device.type != "cpu":
        raise TypeError(f"{name}: a tensor on the CPU, got one on {value.device}")
    value = value.detach()
    # NumPy has no bfloat16; float32 holds all of its values.
    return np.asarray((value.float() if value.dtype.itemsize == 2 and value.is_floating_point() else value).numpy())


def as_floats(name: str, value: Any) -> NDArray[np.float32]:
    array = as_array(name, value)
    if array.dtype not in (np.float32, np.float16, np.float64):
        raise TypeError(f"{name}: float16, bfloat16, float32 or float64, got {array.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def as_matrix(name: str, value: Any, *, columns: int | None = None, finite: bool = True) -> NDArray[np.float32]:
    """Rows of float32; with ``columns`` given a single row may come as one dimension. ``finite``: refuse others."""
    rows = as_floats(name, value)
    if columns is not None and getattr(value, "ndim", None) == 1:
        rows = rows.reshape(1, -1)
    if getattr(value, "ndim", None) == 0 or rows.ndim != 2:
        wanted = "(N, D)" if columns is None else f"(M, {columns}) or ({columns},)"
        raise ValueError(f"{name}: shape {wanted}, got {tuple(value.shape)}")
    if rows.shape[1] != (columns or max(rows.shape[1], 1)):
        raise ValueError(f"{name}: {columns or 'at least 1'} columns, got {rows.shape[1]}")
    if finite and not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]
        raise ValueError(f"{name}: finite values in float32, got NaN or infinity in row {bad}")
    return rows


def per_item(name: str, value: Any, n: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    values = as_floats(name, value)
    if value.ndim != 1 or len(values) != n:
        raise ValueError(f"{name}: shape ({n},), got {tuple(value.shape)}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{name}: finite values in float32, got NaN or infinity at {bad[0]}")
    return values


def as_integers(name: str, value: Any) -> NDArray[np.int64]:
    array = as_array(name, value)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise TypeError(f"{name}: integers of one dimension, got {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.int64)


def as_mask(filter: Any, n: int) -> NDArray[np.uint8] | None:
    """A byte an item, 1 where it may be returned."""
    if filter is None:
        return None
    array = as_array("filter", filter)
    if array.dtype == np.bool_:
        if array.shape != (n,):
            raise ValueError(f"filter: a mask of shape ({n},), got {array.shape}")
        return np.ascontiguousarray(array).view(np.uint8)
    ids = as_integers("filter", filter)
    if len(ids) and not (ids.min() >= 0 and ids.max() < n):
        raise ValueError(f"filter: ids in 0..{n - 1}, got {ids.min()}..{ids.max()}")
    mask = np.zeros(n, np.uint8)
    mask[ids] = 1
    return mask


def as_csr(exclude: Any, m: int, n: int) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Checked, and the ids of each query sorted."""
    if exclude is None:
        return None, None
    if not isinstance(exclude, tuple) or len(exclude) != 2:
        raise TypeError(f"exclude: a pair (indptr, indices) or None, got {type(exclude).__name__}")
    indptr, indices = as_integers("exclude[0] (indptr)", exclude[0]), as_integers("exclude[1] (indices)", exclude[1])
    rising = len(indptr) == m + 1 and indptr[0] == 0 and (np.diff(indptr) >= 0).all() and indptr[-1] == len(indices)
    if not rising:
        wanted = f"{m + 1} rising values from 0 to {len(indices)}"
        raise ValueError(f"exclude[0] (indptr): {wanted}, got {len(indptr)} values")
    if len(indices) and not (indices.min() >= 0 and indices.max() < n):
        raise ValueError(f"exclude[1] (indices): ids in 0..{n - 1}, got {indices.min()}..{indices.max()}")
    rows = np.repeat(np.arange(m), np.diff(indptr))
    return indptr, indices[np.lexsort((indices, rows))]


def like(example: Any, array: NDArray[Any]) -> Any:
    return sys.modules["torch"].from_numpy(array) if is_tensor(example) else array
