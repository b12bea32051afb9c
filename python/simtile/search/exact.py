"""Exact nearest neighbours.

A first pass over 8-bit codes (or in float32) leaves the few items that its proved error bound cannot exclude; their
scores are then taken in float64. The result is that of sorting all float64 scores, equal scores by the smaller id: the
same bits whatever the first pass, the processor or the number of threads.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from simtile import _core
from simtile.search._arrays import as_count, as_csr, as_mask, as_matrix, like, per_item, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", NDArray[Any], Tensor)

Metric: TypeAlias = Literal["ip", "cosine", "l2"]
FirstPass: TypeAlias = Literal["auto", "i8", "f32"]

# Below either, packing codes for a handful of float32 tiles gains nothing.
_LEAST_ITEMS, _LEAST_COLUMNS = 2048, 32
_MOST_COLUMNS = 65536  # sums of products of codes fill 32 bits here
# An exact score costs as much as some 30 columns of a float32 pass, three quarters of which the codes save.
_PROBES, _PROBE_K, _MOST_RESCORED = 36, 10, 1 / 32


class ExactIndex:
    """Exact k nearest neighbours by inner product, cosine or squared Euclidean distance.

    Parameters
    ----------
    vectors : array or Tensor (N, D)      float16, bfloat16, float32 or float64; kept as a float32 copy
    metric : {"ip", "cosine", "l2"}      l2 is squared; the cosine with a zero vector is 0
    item_scale, item_bias : array or Tensor (N,)      items rank by ``item_scale * score + item_bias``, as a hubness
        correction asks (not for l2); a negative scale is allowed
    first_pass : {"auto", "i8", "f32"}      changes the speed, never the result. "auto" takes 8-bit codes where the
        processor multiplies bytes fast and a few of the vectors, searched for, show that the bound excludes enough

    Raises
    ------
    TypeError      another kind of array, an integer dtype, a tensor that is not on the CPU
    ValueError      wrong shape; NaN or infinity (in float32), with the first row that holds one

    Notes
    -----
    Memory: 4 N D bytes for the vectors, and N D (codes) or 4 N D (float32) for the packed copy. Nothing of size
    (queries, N) is made. Where thousands of items near the top are equal, or differ in their last bits only, they are
    scored one by one: still right, but slow.

    Examples
    --------
    >>> index = ExactIndex(np.eye(3, dtype=np.float32), metric="cosine")
    >>> scores, ids = index.search(np.array([[3.0, 4.0, 0.0]], dtype=np.float32), 2)
    >>> ids
    array([[1, 0]])
    >>> scores
    array([[0.8, 0.6]], dtype=float32)
    """

    def __init__(
        self,
        vectors: NDArray[Any] | Tensor,
        *,
        metric: Metric = "ip",
        item_scale: NDArray[Any] | Tensor | None = None,
        item_bias: NDArray[Any] | Tensor | None = None,
        first_pass: FirstPass = "auto",
    ) -> None:
        if metric not in ("ip", "cosine", "l2"):
            raise ValueError(f'metric: one of "ip", "cosine", "l2", got {metric!r}')
        if first_pass not in ("auto", "i8", "f32"):
            raise ValueError(f'first_pass: one of "auto", "i8", "f32", got {first_pass!r}')
        rows = as_matrix("vectors", vectors)
        scale, bias = per_item("item_scale", item_scale, len(rows)), per_item("item_bias", item_bias, len(rows))
        if metric == "l2" and (scale is not None or bias is not None):
            raise ValueError('item_scale, item_bias: for metric "ip" and "cosine" only, got "l2"')
        self.metric = metric
        self._affine = scale, bias
        self._kind = functools.partial(like, vectors[:0])

        def store(codes: bool) -> _core.ExactStore:
            return _core.ExactStore(
                rows, metric=metric, codes=codes, item_scale=scale, item_bias=bias, num_threads=thread_count(None)
            )

        codes = first_pass == "i8" or (first_pass == "auto" and _worth_codes(rows))
        self._store = store(codes)
        if first_pass == "auto" and codes and not _excludes_enough(self._store, rows):
            codes = False
            self._store = store(codes)
        self.first_pass: Literal["i8", "f32"] = "i8" if codes else "f32"

    def __len__(self) -> int:
        return self._store.shape[0]

    @property
    def dim(self) -> int:
        """D, the number of columns of the vectors."""
        return self._store.shape[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are built again, from the vectors in float32."""
        scale, bias = self._affine
        rebuilt = functools.partial(
            ExactIndex, metric=self.metric, item_scale=scale, item_bias=bias, first_pass=self.first_pass
        )
        return rebuilt, (self._kind(self._store.vectors()),)

    def __repr__(self) -> str:
        return f"ExactIndex({len(self):,} x {self.dim}, metric={self.metric!r}, first_pass={self.first_pass!r})"

    def search(
        self,
        queries: Array,
        k: int,
        *,
        filter: NDArray[Any] | Tensor | None = None,
        exclude: tuple[NDArray[Any] | Tensor, NDArray[Any] | Tensor] | None = None,
        num_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """The k best items of each query.

        Parameters
        ----------
        queries : array or Tensor (M, D), or (D,) for one      as ``vectors``
        k : int      beyond the number of items left, results are padded
        filter : bool (N,) or integer (any length)      the items that may be returned, as a mask or as ids
        exclude : (indptr (M + 1,), indices (nnz,))      CSR list of items that each query must not return
        num_threads : int or None      None: all processors this process may use

        Returns
        -------
        scores : float32 (M, k), or (k,)      best first: descending, l2 ascending; padded with -inf, l2 with inf
        ids : int64, likewise      equal scores: the smaller id first; padded with -1

        Raises
        ------
        TypeError, ValueError      naming the argument
        """
        rows = as_matrix("queries", queries, columns=self.dim)
        k = as_count("k", k)
        indptr, indices = as_csr(exclude, len(rows), len(self))
        scores, ids, _ = self._store.search(
            rows,
            k,
            filter=as_mask(filter, len(self)),
            indptr=indptr,
            indices=indices,
            num_threads=thread_count(num_threads),
        )
        if queries.ndim == 1:
            scores, ids = scores[0], ids[0]
        return like(queries, scores), like(queries, ids)

    def search_f64(
        self, queries: Any, k: int, *, num_threads: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """As :meth:`search` of a matrix of queries, always NumPy, the scores in the float64 they are ranked by.

        For merging the results of several indexes: in float32 different scores become equal.
        """
        rows = as_matrix("queries", queries, columns=self.dim)
        return self._store.search_f64(rows, as_count("k", k), num_threads=thread_count(num_threads))

    def range_search(
        self,
        queries: Array,
        radius: float,
        *,
        filter: NDArray[Any] | Tensor | None = None,
        num_threads: int | None = None,
    ) -> tuple[Array, Array, Array]:
        """All items of each query with a score of at least ``radius``; l2: with a squared distance of at most it.

        Parameters
        ----------
        queries : array or Tensor (M, D), or (D,) for one      as ``vectors``
        radius : float      compared with scores in float64
        filter, num_threads      as in :meth:`search`

        Returns
        -------
        indptr : int64 (M + 1,)      query i has the entries indptr[i] to indptr[i + 1]
        scores : float32 (nnz,)      best first within a query
        ids : int64 (nnz,)      equal scores: the smaller id first

        Raises
        ------
        TypeError, ValueError      naming the argument

        Examples
        --------
        >>> index = ExactIndex(np.array([[0.0], [1.0], [3.0]]), metric="l2")
        >>> index.range_search(np.array([0.4]), 1.0)[2]
        array([0, 1])
        """
        rows = as_matrix("queries", queries, columns=self.dim)
        if isinstance(radius, bool) or not isinstance(radius, (int, float, np.integer, np.floating)):
            raise TypeError(f"radius: a number, got {type(radius).__name__}")
        found = self._store.within(
            rows, float(radius), filter=as_mask(filter, len(self)), num_threads=thread_count(num_threads)
        )
        indptr, scores, ids = (like(queries, part) for part in found)
        return indptr, scores, ids

    def knn_graph(self, k: int, *, num_threads: int | None = None) -> tuple[Any, Any]:
        """The k nearest neighbours of every item among the others.

        One product serves both items of a pair, so that this takes about half the time of a search for all items.

        Parameters
        ----------
        k : int      beyond N - 1, lists are padded
        num_threads      as in :meth:`search`

        Returns
        -------
        scores (N, k), ids (N, k)      as :meth:`search` returns them, each item left out of its own list

        Raises
        ------
        TypeError, ValueError      naming the argument

        Notes
        -----
        Some 12 (k + max(k, 48)) bytes an item for candidates, besides the result. With item_scale or item_bias a score
        depends on which of the two is the item, and all items are searched for.
        """
        scores, ids, _ = self._store.neighbours(as_count("k", k), num_threads=thread_count(num_threads))
        return self._kind(scores), self._kind(ids)


def _worth_codes(rows: NDArray[np.float32]) -> bool:
    """Whether codes can pay: byte products are four times as fast as float32 on AVX-512 VNNI alone."""
    n, d = rows.shape
    return n >= _LEAST_ITEMS and _LEAST_COLUMNS <= d <= _MOST_COLUMNS and _core.isas()[0] == "avx512_bf16"


def _excludes_enough(store: _core.ExactStore, rows: NDArray[np.float32]) -> bool:
    """Whether the bound leaves few enough items to be scored exactly, for items as queries."""
    probes = np.ascontiguousarray(rows[:: max(1, len(rows) // _PROBES)][:_PROBES])
    _, _, rescored = store.search(probes, _PROBE_K)
    return rescored <= _MOST_RESCORED * len(probes) * len(rows)
