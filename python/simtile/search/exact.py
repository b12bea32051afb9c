"""Exact nearest neighbours.

A first pass over 8-bit codes (or in float32) leaves the few items that its proved error bound cannot exclude; their
scores are then taken in float64. The result is that of sorting all float64 scores, equal scores by the smaller id: the
same bits whatever the first pass, the processor or the number of threads.
"""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from simtile import _core
from simtile.search._arrays import as_count, as_csr, as_integers, as_matrix, like, per_item, thread_count
from simtile.search._state import Metric, State, excludes_enough, first_pass_of, prepared, worth_codes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", NDArray[Any], Tensor)

FirstPass: TypeAlias = Literal["auto", "pca", "i8", "f32"]


class ExactIndex:
    """Exact k nearest neighbours by inner product, cosine or squared Euclidean distance.

    Parameters
    ----------
    vectors : array or Tensor (N, D)      float16, bfloat16, float32 or float64; kept as a float32 copy (see ``copy``)
    metric : {"ip", "cosine", "l2"}      l2 is squared; the cosine with a zero vector is 0
    item_scale, item_bias : array or Tensor (N,)      items rank by ``item_scale * score + item_bias``, as a hubness
        correction asks (not for l2); a negative scale is allowed
    first_pass : {"auto", "pca", "i8", "f32"}      changes the speed, never the result. "auto" takes 8-bit codes where
        the processor multiplies bytes fast and a few of the vectors, searched for, show that the bound excludes enough.
        "pca" takes codes along the vectors' principal directions and multiplies the leading ones alone, where a sample
        says that they exclude most pairs, otherwise "i8": searches of embeddings are faster, but packing takes several
        times as long, so that it pays for ten thousand queries or more
    copy : bool      False: C-contiguous float32 vectors are referred to; while the index is used, they must not change

    Raises
    ------
    TypeError      another kind of array, an integer dtype, a tensor that is not on the CPU
    ValueError      wrong shape; NaN or infinity (in float32), with the first row that holds one

    Notes
    -----
    Items have the numbers of their rows as ids; those that are added later go on from ``next_id``, and removal leaves
    the others' ids as they are. Searches may run in several threads, also while items are added or removed: each sees
    all of a change or nothing of it.

    Memory: 4 N D bytes for the copy of the vectors, and N D (codes) or 4 N D (float32) for the packed one. Nothing of
    size (queries, N) is made. Where thousands of items near the top are equal, or differ in their last bits only, they
    are scored one by one: still right, but slow.

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
        copy: bool = True,
    ) -> None:
        if metric not in ("ip", "cosine", "l2"):
            raise ValueError(f'metric: one of "ip", "cosine", "l2", got {metric!r}')
        if first_pass not in ("auto", "pca", "i8", "f32"):
            raise ValueError(f'first_pass: one of "auto", "pca", "i8", "f32", got {first_pass!r}')
        rows = as_matrix("vectors", vectors, finite=False)  # the store looks, while it copies
        scale, bias = per_item("item_scale", item_scale, len(rows)), per_item("item_bias", item_bias, len(rows))
        if metric == "l2" and (scale is not None or bias is not None):
            raise ValueError('item_scale, item_bias: for metric "ip" and "cosine" only, got "l2"')
        chosen = first_pass if first_pass != "auto" else "i8" if worth_codes(rows) else "f32"
        store = prepared(rows, metric, chosen, scale, bias, copy=copy)
        if first_pass == "auto" and chosen == "i8" and not excludes_enough(store, rows):
            store = prepared(rows, metric, "f32", scale, bias, copy=copy)
        self._set(State(store, None, len(rows)))
        self._changing = threading.Lock()
        self._kind = functools.partial(like, vectors[:0])

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, verify: bool = True, num_threads: int | None = None
    ) -> ExactIndex:  # fmt: skip
        """The index that was saved to ``path``: its vectors are mapped into memory, and packed again.

        ``verify=False`` leaves out the comparison of checksums: damage may then give wrong results.

        Raises
        ------
        OSError      a file that cannot be read
        IndexFileError      a ValueError: not an exact index, damaged, cut off, or written by a later version
        """
        found = _core.ExactStore.load(os.fspath(path), verify=verify, num_threads=thread_count(num_threads))
        index = cls.__new__(cls)
        index._set(State(*found))
        index._changing = threading.Lock()
        index._kind = np.asarray
        index._path = Path(path)
        return index

    _state: State
    _changing: threading.Lock
    _kind: Callable[[NDArray[Any]], Any]
    _path: Path | None = None

    def _set(self, state: State) -> None:
        self._state = state
        self.metric = state.store.metric
        self.first_pass = first_pass_of(state.store)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, in place of what is there: a crash leaves the old file or the new one.

        Raises
        ------
        OSError      a file that cannot be written
        """
        store, ids, next_id = self._state
        store.save(os.fspath(path), ids, next_id)
        self._path = Path(path)

    def sync(self) -> None:
        """Save to the file that was last loaded or saved: once it returns, all changes before it outlast a crash.

        Raises
        ------
        ValueError      neither loaded nor saved yet
        """
        if self._path is None:
            raise ValueError("sync: the index has no file yet; save(path) first")
        self.save(self._path)

    def __len__(self) -> int:
        return self._state.store.shape[0]

    @property
    def dim(self) -> int:
        """D, the number of columns of the vectors."""
        return self._state.store.shape[1]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all items, rising."""
        return self._state.all_ids()

    @property
    def next_id(self) -> int:
        """The id that the next item gets; ids are never given twice. Masks have this length."""
        return self._state.next_id

    def add(
        self,
        vectors: NDArray[Any] | Tensor,
        *,
        item_scale: NDArray[Any] | Tensor | None = None,
        item_bias: NDArray[Any] | Tensor | None = None,
    ) -> NDArray[np.int64]:
        """Add items; their ids (n,), which go on from ``next_id``.

        Packs all vectors again: add many at once rather than one by one.

        Parameters
        ----------
        vectors : array or Tensor (n, D)
        item_scale, item_bias : array or Tensor (n,)      where the index has them

        Raises
        ------
        TypeError, ValueError      as for a new index, another number of columns, a scale or bias that the index has and
            the new items lack, or the other way round; nothing is added then
        """
        rows = as_matrix("vectors", vectors, columns=self.dim)
        new = per_item("item_scale", item_scale, len(rows)), per_item("item_bias", item_bias, len(rows))
        with self._changing:
            store, ids, next_id = self._state
            for name, old, more in zip(("item_scale", "item_bias"), store.affine, new, strict=True):
                if (old is None) != (more is None):
                    raise ValueError(
                        f"{name}: the index has {'none' if old is None else 'one'}, the new items otherwise"
                    )
            added = np.arange(next_id, next_id + len(rows))
            scale, bias = (
                None if old is None or more is None else np.concatenate([old, more])
                for old, more in zip(store.affine, new, strict=True)
            )
            rows = np.concatenate([store.vectors(), rows])
            every = prepared(rows, self.metric, first_pass_of(store), scale, bias, copy=False)
            kept = None if ids is None else np.concatenate([ids, added])
            self._set(State(every, kept, next_id + len(added)))
            return added

    def remove(self, ids: NDArray[Any] | Tensor) -> None:
        """Remove items. Packs the others again: remove many at once rather than one by one.

        Raises
        ------
        TypeError      not integers
        ValueError      an id that is not in the index, or that comes twice; nothing is removed then
        """
        gone = as_integers("ids", ids)
        with self._changing:
            state = self._state
            all_ids = state.all_ids()
            if len(np.unique(gone)) != len(gone):
                raise ValueError("ids: every one once, got duplicates")
            if len(missing := np.setdiff1d(gone, all_ids)):
                raise ValueError(f"ids: of items in the index, got {missing[0]}")
            left = ~np.isin(all_ids, gone)
            scale, bias = (None if values is None else values[left] for values in state.store.affine)
            rows = state.store.vectors()[left]
            store = prepared(rows, self.metric, first_pass_of(state.store), scale, bias, copy=False)
            self._set(State(store, all_ids[left], state.next_id))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are built again, from the vectors in float32."""
        store, ids, next_id = self._state
        scale, bias = store.affine
        rebuilt = functools.partial(
            _rebuilt,
            metric=self.metric,
            scale=scale,
            bias=bias,
            first_pass=first_pass_of(store),
            ids=ids,
            next_id=next_id,
        )
        return rebuilt, (self._kind(store.vectors()),)

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
        filter : bool (next_id,) or integer (any length)      the items that may be returned, as a mask or as ids
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
        state = self._state
        rows = as_matrix("queries", queries, columns=self.dim, finite=False)  # the engine looks
        k = as_count("k", k)
        indptr, indices = state.places(*as_csr(exclude, len(rows), state.next_id))
        scores, ids, _ = state.store.search(
            rows,
            k,
            filter=state.mask(filter),
            indptr=indptr,
            indices=indices,
            num_threads=thread_count(num_threads),
        )
        ids = state.named(ids)
        if queries.ndim == 1:
            scores, ids = scores[0], ids[0]
        return like(queries, scores), like(queries, ids)

    def search_f64(
        self, queries: Any, k: int, *, num_threads: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """As :meth:`search` of a matrix of queries, always NumPy, the scores in the float64 they are ranked by.

        For merging the results of several indexes: in float32 different scores become equal.
        """
        state = self._state
        rows = as_matrix("queries", queries, columns=self.dim, finite=False)
        scores, ids = state.store.search_f64(rows, as_count("k", k), num_threads=thread_count(num_threads))
        return scores, state.named(ids)

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
        rows = as_matrix("queries", queries, columns=self.dim, finite=False)
        if isinstance(radius, bool) or not isinstance(radius, (int, float, np.integer, np.floating)):
            raise TypeError(f"radius: a number, got {type(radius).__name__}")
        state = self._state
        indptr, scores, ids = state.store.within(
            rows, float(radius), filter=state.mask(filter), num_threads=thread_count(num_threads)
        )
        return like(queries, indptr), like(queries, scores), like(queries, state.named(ids))

    def knn_graph(self, k: int, *, num_threads: int | None = None) -> tuple[Any, Any]:
        """The k nearest neighbours of every item among the others.

        One product serves both items of a pair, so that this takes about half the time of a search for all items.

        Parameters
        ----------
        k : int      beyond N - 1, lists are padded
        num_threads      as in :meth:`search`

        Returns
        -------
        scores (N, k), ids (N, k)      as :meth:`search` returns them, each item left out of its own list; a row for
            each of ``ids``

        Raises
        ------
        TypeError, ValueError      naming the argument

        Notes
        -----
        Some 12 (k + max(k, 48)) bytes an item for candidates, besides the result. With item_scale or item_bias a score
        depends on which of the two is the item, and all items are searched for.
        """
        state = self._state
        scores, ids, _ = state.store.neighbours(as_count("k", k), num_threads=thread_count(num_threads))
        return self._kind(scores), self._kind(state.named(ids))


def _rebuilt(
    vectors: Any, *, metric: Metric, scale: Any, bias: Any, first_pass: FirstPass, ids: NDArray[np.int64] | None,
    next_id: int,
) -> ExactIndex:  # fmt: skip
    """A pickled index."""
    index = ExactIndex(vectors, metric=metric, item_scale=scale, item_bias=bias, first_pass=first_pass)
    index._set(State(index._state.store, ids, next_id))
    return index
