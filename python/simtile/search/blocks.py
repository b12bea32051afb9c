"""Exact search through more vectors than fit into memory."""

from __future__ import annotations

import functools
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from simtile.executors._base import as_executor
from simtile.search._arrays import as_count, as_matrix, like, thread_count
from simtile.search.exact import ExactIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from simtile.executors import Executor
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
    executor: Executor | None = None,
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
    num_threads : int or None      None: all processors this process may use; of each worker, where there are several
    executor : Executor or None      where blocks are searched (:mod:`simtile.executors`); None: in this process.
        Workers read a ``numpy.memmap`` by themselves, from the same path; anything else is sent to each of them whole

    Returns
    -------
    (scores, ids)      the bits of ``ExactIndex(vectors, metric=metric).search(queries, k)``, for any ``block_rows`` and
        any executor

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
    where = as_executor(executor)
    worst = np.inf if metric == "l2" else -np.inf
    scores, ids = np.full((len(rows), k), worst), np.full((len(rows), k), -1, np.int64)
    blocks = ((start, min(start + step, n)) for start in range(0, max(n, 1), step))  # an empty set is checked, too
    source = _Mapped.of(vectors) if isinstance(vectors, np.memmap) else vectors
    search = functools.partial(_Search, source, rows, k, metric, threads)
    for block_scores, block_ids in where.in_order(_Search.block, blocks, setup=search):
        scores, ids = np.hstack([scores, block_scores]), np.hstack([ids, block_ids])
        best = np.lexsort((ids, scores if metric == "l2" else -scores), axis=1)[:, :k]
        scores, ids = np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)
    found = scores.astype(np.float32), ids
    if queries.ndim == 1:
        found = found[0][0], found[1][0]
    return like(queries, found[0]), like(queries, found[1])


@dataclass(frozen=True)
class _Search:
    """What each worker holds."""

    vectors: Any
    rows: NDArray[np.float32]
    k: int
    metric: Metric
    threads: int

    def block(self, start: int, end: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scores in float64 and ids of the best of vectors ``start`` to ``end``."""
        index = ExactIndex(self.vectors[start:end], metric=self.metric)
        scores, ids = index.search_f64(self.rows, self.k, num_threads=self.threads)
        return scores, np.where(ids < 0, -1, ids + start)


@dataclass(frozen=True)
class _Mapped:
    """Rows of a mapped file, mapped again for each block; pickled, it is a path."""

    path: Any
    dtype: np.dtype[Any]
    offset: int
    columns: int

    @classmethod
    def of(cls, vectors: np.memmap[Any, Any]) -> Any:
        """``vectors`` themselves where they are not whole rows of a file, one after another."""
        whole = vectors.flags.c_contiguous and vectors.filename is not None and isinstance(vectors.base, mmap.mmap)
        return cls(vectors.filename, vectors.dtype, vectors.offset, vectors.shape[1]) if whole else vectors

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """A copy in memory: a block is read once, from its start to its end."""
        offset = self.offset + rows.start * self.columns * self.dtype.itemsize
        shape = (rows.stop - rows.start, self.columns)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        return np.array(np.memmap(self.path, self.dtype, "r", offset, shape))
