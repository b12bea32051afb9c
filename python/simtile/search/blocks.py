"""Exact search through more vectors than fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from simtile.search._arrays import as_count, as_matrix, like, thread_count
from simtile.search.exact import ExactIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from simtile.search._state import Metric

    Array = TypeVar("Array", NDArray[Any], Tensor)

_BLOCK_BYTES = 64 << 20
_LEAST_ROWS = 4096


def search_blocks(
    vectors: Any,
    queries: Array,
    k: int,
    *,
    metric: Metric = "ip",
    block_rows: int | None = None,
    num_threads: int | None = None,
) -> tuple[Array, Array]:
    """The k best of ``vectors`` for each query, a block of rows in memory at a time.

    Parameters
    ----------
    vectors : (N, D)      whatever has a shape and gives rows as an array when it is sliced: a ``numpy.memmap``, an HDF5
        or Zarr array
    queries : array or Tensor (M, D), or (D,) for one
    k : int      beyond N, results are padded
    metric      as in :class:`ExactIndex`
    block_rows : int or None      rows read at a time; None: 64 MiB of float32
    num_threads : int or None      None: all processors this process may use

    Returns
    -------
    (scores, ids)      the bits of ``ExactIndex(vectors, metric=metric).search(queries, k)``, for any ``block_rows``

    Raises
    ------
    TypeError, ValueError      naming the argument; a row with NaN or infinity is counted within its block

    Notes
    -----
    Memory: some 10 to 16 D bytes for each row of a block, and 32 k bytes for each query. Blocks are merged by float64
    scores. Every call reads all of ``vectors``: ask many queries at once.

    Examples
    --------
    >>> vectors = np.arange(6.0).reshape(3, 2)  # or np.load("vectors.npy", mmap_mode="r")
    >>> search_blocks(vectors, np.array([1.0, 0.0]), 2, block_rows=1)[1]
    array([2, 1])
    """
    shape = getattr(vectors, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(f"vectors: shape (N, D), got {shape if shape is not None else type(vectors).__name__}")
    n, d = (int(size) for size in shape)
    rows = as_matrix("queries", queries, columns=d)
    k, threads = as_count("k", k), thread_count(num_threads)
    step = (
        max(_LEAST_ROWS, _BLOCK_BYTES // (4 * max(d, 1))) if block_rows is None else as_count("block_rows", block_rows)
    )
    if step == 0:
        raise ValueError("block_rows: at least 1, got 0")
    worst = np.inf if metric == "l2" else -np.inf
    scores, ids = np.full((len(rows), k), worst), np.full((len(rows), k), -1, np.int64)
    for start in range(0, max(n, 1), step):  # an empty set is checked, too
        index = ExactIndex(_loaded(vectors[start : start + step]), metric=metric)
        block_scores, block_ids = index.search_f64(rows, k, num_threads=threads)
        block_ids = np.where(block_ids < 0, -1, block_ids + start)
        scores, ids = np.hstack([scores, block_scores]), np.hstack([ids, block_ids])
        best = np.lexsort((ids, scores if metric == "l2" else -scores), axis=1)[:, :k]
        scores, ids = np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)
    found = scores.astype(np.float32), ids
    if queries.ndim == 1:
        found = found[0][0], found[1][0]
    return like(queries, found[0]), like(queries, found[1])


def _loaded(block: Any) -> Any:
    """A mapped block as an array in memory: it is read once, from its start to its end."""
    return np.array(block) if isinstance(block, np.memmap) else block
