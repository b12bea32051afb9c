"""The cheap side of an index: embeddings or a retriever function, and which items may be returned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.cur.item_matrix import FactorDtype, ItemMatrix, dequantized, quantized

__all__ = ["Retrieval", "RetrieverFunction"]

Embeddings: TypeAlias = NDArray[np.floating]
RetrieverFunction: TypeAlias = Callable[[Sequence[Any], int], Any]
"""(queries, k) -> ids (M, k) padded with -1, or a pair (scores, ids) as `ExactIndex.search` returns it."""


class Retrieval:
    """First lists for queries.

    Attributes
    ----------
    embeddings : float32 (n, e) or None      of the items
    allowed : bool (n,)      False where an item was removed
    """

    def __init__(
        self, n: int, embeddings: Embeddings | None, function: RetrieverFunction | None, dtype: FactorDtype
    ) -> None:
        self.function, self.dtype = function, dtype
        self.allowed = np.ones(n, np.bool_)
        self.embeddings: NDArray[np.float32] | None = None
        self._matrix: ItemMatrix | None = None
        if embeddings is not None:
            self._set(_checked("item_embeddings", embeddings, n, None))

    @property
    def can_list(self) -> bool:
        return self.function is not None or self.embeddings is not None

    def check_queries(self, name: str, value: Embeddings | None, n: int) -> NDArray[np.float32] | None:
        """Embeddings (n, e) of queries: there if the items have some, and of the same width."""
        if self.embeddings is None:
            if value is not None:
                raise ValueError(f"{name}: None for an index without item_embeddings")
            return None
        if value is None:
            raise ValueError(f"{name}: an array ({n}, {self.embeddings.shape[1]}), got None")
        return _checked(name, value, n, self.embeddings.shape[1])

    def lists(
        self, queries: Sequence[Any], embeddings: Embeddings | None, size: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Ids (M, L <= size), best first, padded with -1; L = 0 without anything to retrieve with."""
        allowed = self.allowed if allowed is None else allowed
        if self.function is not None:
            return self._asked(queries, size, allowed)
        nothing = np.empty((len(queries), 0), np.int64)
        if self.embeddings is None or embeddings is None:
            return nothing
        if self._matrix is None:  # "auto" searches its own vectors, which hold the embeddings
            self._matrix = ItemMatrix(self.embeddings)
        return self._matrix.top(embeddings, min(size, len(self.allowed)), allowed=allowed, scored=nothing)[1]

    def add(self, n: int, embeddings: Embeddings | None) -> None:
        if self.embeddings is not None:
            if embeddings is None:
                raise ValueError(f"item_embeddings: an array ({n}, {self.embeddings.shape[1]}), got None")
            new = _checked("item_embeddings", embeddings, n, self.embeddings.shape[1])
            self._set(np.concatenate([self.embeddings, dequantized(quantized(new, self.dtype))]))
        elif embeddings is not None:
            raise ValueError("item_embeddings: None for an index that was built without them")
        self.allowed = np.concatenate([self.allowed, np.ones(n, np.bool_)])

    def remove(self, ids: NDArray[np.int64]) -> None:
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(self.allowed)):
            raise ValueError(f"ids: in 0..{len(self.allowed) - 1}, got {ids.min()}..{ids.max()}")
        if not self.allowed[ids].all():
            raise ValueError(f"ids: items that are there, got {int(ids[~self.allowed[ids]][0])}, which was removed")
        self.allowed[ids] = False

    def allowed_by(self, filter: NDArray[Any] | None) -> NDArray[np.bool_]:
        """The items that are there and that a filter (mask or ids) lets through."""
        if filter is None:
            return self.allowed
        filter = np.asarray(filter)
        if filter.dtype != np.bool_:
            ids = filter.astype(np.int64)
            filter = np.zeros(len(self.allowed), np.bool_)
            filter[ids] = True
        if filter.shape != self.allowed.shape:
            raise ValueError(f"filter: a mask of shape {self.allowed.shape}, got {filter.shape}")
        return np.asarray(self.allowed & filter)

    def _set(self, embeddings: NDArray[np.float32]) -> None:
        self.embeddings = dequantized(quantized(embeddings, self.dtype))
        self._matrix = None

    def _asked(self, queries: Sequence[Any], size: int, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        assert self.function is not None
        answer = self.function(queries, size)
        ids = np.asarray(answer[1] if isinstance(answer, tuple) else answer, dtype=np.int64)
        if ids.ndim != 2 or len(ids) != len(queries):
            raise ValueError(f"retriever: ids of shape ({len(queries)}, at most {size}), got {ids.shape}")
        if ids.size and not (ids.min() >= -1 and ids.max() < len(self.allowed)):
            raise ValueError(f"retriever: ids in -1..{len(self.allowed) - 1}, got {ids.min()}..{ids.max()}")
        result = np.full((len(ids), min(size, ids.shape[1])), -1, np.int64)
        for row, found in zip(result, ids, strict=True):
            kept = [i for i in dict.fromkeys(found.tolist()) if i >= 0 and allowed[i]][: len(row)]
            row[: len(kept)] = kept
        return result


def _checked(name: str, value: Embeddings, n: int, columns: int | None) -> NDArray[np.float32]:
    rows = np.asarray(value)
    if rows.ndim != 2 or len(rows) != n or rows.shape[1] != (columns or rows.shape[1]) or not rows.shape[1]:
        raise ValueError(f"{name}: shape ({n}, {columns or 'at least 1'}), got {rows.shape}")
    if not np.issubdtype(rows.dtype, np.floating):
        raise TypeError(f"{name}: a floating-point array, got {rows.dtype}")
    rows = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: finite values, got NaN or infinity in row {np.argwhere(~np.isfinite(rows))[0][0]}")
    return rows
