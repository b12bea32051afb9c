"""Approximate nearest neighbours by a walk over a graph of the items."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from simtile import _core
from simtile.search._arrays import as_count, as_integers, as_mask, as_matrix, like, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", NDArray[Any], Tensor)

Metric: TypeAlias = Literal["ip", "cosine", "l2"]

_EF = 64
_MOST_EF = 4096
_TUNING_QUERIES = 256


class GraphIndex:
    """Approximate k nearest neighbours by inner product, cosine or squared Euclidean distance.

    A flat graph with short codes of the vectors beside it; what a walk finds is ranked by scores in float64. Made with
    :meth:`build` or :meth:`load`.

    Attributes
    ----------
    ef : int      breadth of a walk where a search gives none; 64, or what :meth:`tune` found. The larger, the higher
        the recall and the slower
    metric : {"ip", "cosine", "l2"}      l2 is squared; the cosine with a zero vector is 0

    Notes
    -----
    Memory of an item: 4 D bytes for its vector, and beside it D / 2 for codes and D / 8 + 16 for signs (both rounded up
    to 64), 4 ``degree`` for edges and 8 for its id; below 128 dimensions D + 16 for codes, and no signs. The graph, its
    file and all results are the same bits on every processor and for any number of threads; they depend on the vectors,
    the seed and the order of calls.

    Searches may run in several threads. A change waits for them, and they for it: a search sees all of a change or
    nothing of it.

    Subramanya et al., DiskANN, NeurIPS 2019 (the graph); Manohar et al., ParlayANN, PPoPP 2024 (its construction in
    batches); Gao & Long, RaBitQ, arXiv:2405.12497 (signs); Singh et al., FreshDiskANN, arXiv:2105.09613 (removal).

    Examples
    --------
    >>> index = GraphIndex.build(np.eye(3, dtype=np.float32), metric="cosine")
    >>> scores, ids = index.search(np.array([[3.0, 4.0, 0.0]], dtype=np.float32), 2)
    >>> ids
    array([[1, 0]])
    >>> index.remove(np.array([1]))
    >>> index.search(np.array([3.0, 4.0, 0.0], dtype=np.float32), 2)[1]
    array([0, 2])
    """

    def __init__(self) -> None:
        raise TypeError("GraphIndex: made with GraphIndex.build(vectors) or GraphIndex.load(path)")

    @classmethod
    def _of(cls, store: _core.GraphStore) -> GraphIndex:
        index = cls.__new__(cls)
        index._store = store
        index.ef = _EF
        index._path = None
        return index

    _store: _core.GraphStore
    ef: int
    _path: Path | None

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | Tensor,
        *,
        metric: Metric = "ip",
        degree: int = 48,
        breadth: int = 192,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> GraphIndex:
        """An index of some vectors; their ids are the numbers of their rows.

        Parameters
        ----------
        vectors : array or Tensor (N, D)      float16, bfloat16, float32 or float64; kept as a float32 copy. N may be 0
        metric : {"ip", "cosine", "l2"}
        degree : int, 4 to 128      edges of an item at most
        breadth : int, at least ``degree``      breadth of the walks that look for an item's neighbours
        seed : int, 0 to 2^64 - 1
        num_threads : int or None      None: all processors this process may use. Makes no difference to the graph

        Raises
        ------
        TypeError      another kind of array, an integer dtype, a tensor that is not on the CPU
        ValueError      wrong shape; NaN or infinity (in float32), with the first row that holds one; an option out of
            its range
        """
        if metric not in ("ip", "cosine", "l2"):
            raise ValueError(f'metric: one of "ip", "cosine", "l2", got {metric!r}')
        if not 0 <= (seed := as_count("seed", seed)) < 2**64:
            raise ValueError(f"seed: below 2^64, got {seed}")
        store = _core.GraphStore(
            as_matrix("vectors", vectors, finite=False),
            metric=metric,
            degree=as_count("degree", degree),
            breadth=as_count("breadth", breadth),
            seed=seed,
            num_threads=thread_count(num_threads),
        )
        return cls._of(store)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> GraphIndex:
        """The index that was saved to ``path``, mapped into memory.

        ``verify=False`` leaves out the comparison of checksums, which reads the whole file: an index of any size then
        opens at once. Damage may then go unnoticed and give wrong results.

        Raises
        ------
        OSError      a file that cannot be read
        IndexFileError      a ValueError: not a graph index, damaged, cut off, or written by a later version
        """
        index = cls._of(_core.GraphStore.load(os.fspath(path), verify=verify))
        index._path = Path(path)
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, in place of what is there: a crash leaves the old file or the new one.

        Raises
        ------
        OSError      a file that cannot be written
        """
        self._store.save(os.fspath(path))
        self._path = Path(path)

    def sync(self) -> None:
        """Save to the file that was last loaded or saved: once it returns, all changes before it outlast a crash.

        Writes the whole file. ``ef`` is not part of it.

        Raises
        ------
        ValueError      neither loaded nor saved yet
        """
        if self._path is None:
            raise ValueError("sync: the index has no file yet; save(path) first")
        self._store.save(os.fspath(self._path))

    def __len__(self) -> int:
        return len(self._store)

    @property
    def dim(self) -> int:
        """D, the number of columns of the vectors."""
        return self._store.dim

    @property
    def metric(self) -> str:
        return self._store.metric

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all items, rising."""
        return self._store.ids()

    @property
    def next_id(self) -> int:
        """The id that the next item gets; ids are never given twice. Masks have this length."""
        return self._store.next_id

    @property
    def graph_bytes(self) -> int:
        """Memory beside the float32 vectors."""
        return self._store.graph_bytes

    def __repr__(self) -> str:
        return f"GraphIndex({len(self):,} x {self.dim}, metric={self.metric!r}, ef={self.ef})"

    def search(
        self,
        queries: Array,
        k: int,
        *,
        ef: int | None = None,
        filter: NDArray[Any] | Tensor | None = None,
        exact: bool = False,
        num_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """The k best items of each query, nearly all of them.

        Parameters
        ----------
        queries : array or Tensor (M, D), or (D,) for one      as the vectors
        k : int      beyond the number of items left, results are padded
        ef : int or None      items that a walk keeps, at least k; None: the attribute
        filter : bool (next_id,) or integer (any length)      the items that may be returned, as a mask or as ids. Where
            few pass, all of them are compared with: the result is then exact
        exact : bool      compare with all items
        num_threads : int or None      None: all processors this process may use

        Returns
        -------
        scores : float32 (M, k), or (k,)      best first: descending, l2 ascending; padded with -inf, l2 with inf
        ids : int64, likewise      equal scores: the smaller id first; padded with -1

        Raises
        ------
        TypeError, ValueError      naming the argument
        """
        rows = as_matrix("queries", queries, columns=self.dim, finite=False)  # the engine looks
        scores, ids = self._store.search(
            rows,
            as_count("k", k),
            as_count("ef", self.ef if ef is None else ef),
            filter=as_mask(filter, self.next_id),
            exact=exact,
            num_threads=thread_count(num_threads),
        )
        if queries.ndim == 1:
            scores, ids = scores[0], ids[0]
        return like(queries, scores), like(queries, ids)

    def add(self, vectors: NDArray[Any] | Tensor, *, num_threads: int | None = None) -> NDArray[np.int64]:
        """Add items; their ids (N,), which go on from ``next_id``.

        Takes a pass over all edges: add many at once rather than one by one.

        Raises
        ------
        TypeError, ValueError      as :meth:`build`, and another number of columns; nothing is added then
        """
        rows = as_matrix("vectors", vectors)
        if rows.shape[1] != self.dim:
            raise ValueError(f"vectors: {self.dim} columns, got {rows.shape[1]}")
        first = self._store.add(rows, num_threads=thread_count(num_threads))
        return np.arange(first, first + len(rows))

    def remove(self, ids: NDArray[Any] | Tensor, *, num_threads: int | None = None) -> None:
        """Remove items: no search returns or passes them any more. Their memory is freed by :meth:`compact`.

        Takes a pass over all edges: remove many at once rather than one by one.

        Raises
        ------
        ValueError      an id that is not in the index, or that comes twice; nothing is removed then
        """
        self._store.remove(as_integers("ids", ids), num_threads=thread_count(num_threads))

    def compact(self) -> None:
        """Free the memory of removed items. Ids stay as they are."""
        self._store.compact()

    def tune(
        self,
        target_recall: float,
        *,
        k: int = 10,
        queries: NDArray[Any] | Tensor | None = None,
        num_threads: int | None = None,
    ) -> int:
        """Set ``ef`` to the smallest that reaches a recall, and return it.

        Parameters
        ----------
        target_recall : float, 0 to 1      share of the k nearest that a search shall find
        k : int
        queries : array or Tensor (M, D) or None      a sample of what will be asked. None: midpoints of items and their
            tenth neighbours, which stand for queries that are much like the items
        num_threads : int or None

        Raises
        ------
        ValueError      out of range; an empty index without queries; a recall that no ``ef`` up to 4,096 reaches
            (``ef`` is then left as it was)
        """
        if not 0 < target_recall <= 1:
            raise ValueError(f"target_recall: above 0, at most 1, got {target_recall}")
        if (k := as_count("k", k)) == 0:
            raise ValueError("k: at least 1, got 0")
        rows = self._midpoints() if queries is None else as_matrix("queries", queries, columns=self.dim)
        if not len(rows):
            raise ValueError("queries: at least one, got none")
        threads = thread_count(num_threads)
        truth = self._store.search(rows, k, k, exact=True, num_threads=threads)[0][:, -1:]
        better = np.less_equal if self.metric == "l2" else np.greater_equal

        def recall(ef: int) -> float:
            # Equal scores count as found; scores are the same bits in both searches.
            return float(better(self._store.search(rows, k, ef, num_threads=threads)[0], truth).mean())

        low, high = k - 1, k
        while recall(high) < target_recall:
            if high >= _MOST_EF:
                raise ValueError(f"target_recall: {target_recall} is not reached with ef {high}")
            low, high = high, min(2 * high, max(_MOST_EF, k))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if recall(middle) >= target_recall else (middle, high)
        self.ef = high
        return high

    def _midpoints(self) -> NDArray[np.float32]:
        ids = self.ids
        if not len(ids):
            raise ValueError("queries: wanted for an empty index, got None")
        chosen = ids[np.linspace(0, len(ids) - 1, min(len(ids), _TUNING_QUERIES)).astype(np.int64)]
        rows = self._store.vectors(chosen)
        near = self._store.search(rows, min(len(ids), 10), _EF)[1][:, -1]
        # Halves first: the sum of two large ones could leave float32.
        others = self._store.vectors(np.ascontiguousarray(near))
        return np.add(rows / 2, others / 2, dtype=np.float32)
