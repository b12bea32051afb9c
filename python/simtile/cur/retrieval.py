"""The cheap side of an index: features or a retriever function, and which items may be returned.

Features are a dual encoder's embeddings, the words of texts, or both side by side; then a list is by the sum of both
inner products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.cur.item_matrix import FactorDtype, ItemMatrix, dequantized, quantized
from simtile.cur.lexical import LexicalEncoder, texts_of

__all__ = ["Retrieval", "RetrieverFunction"]

Embeddings: TypeAlias = NDArray[np.floating]
RetrieverFunction: TypeAlias = Callable[[Sequence[Any], int], Any]
"""(queries, k) -> ids (M, k) padded with -1, or a pair (scores, ids) as `ExactIndex.search` returns it."""


class Retrieval:
    """First lists for queries.

    Attributes
    ----------
    embeddings : float32 (n, e) or None      of the items
    lexical : LexicalEncoder or None
    words : float32 (n, l) or None      its rows of the items
    allowed : bool (n,)      False where an item was removed
    """

    def __init__(
        self,
        n: int,
        embeddings: Embeddings | None,
        function: RetrieverFunction | None,
        dtype: FactorDtype,
        lexical: LexicalEncoder | None = None,
        words: NDArray[np.float32] | None = None,
    ) -> None:
        self.function, self.dtype, self.lexical = function, dtype, lexical
        self.allowed = np.ones(n, np.bool_)
        self.embeddings = (
            None if embeddings is None else self._rounded(_checked("item_embeddings", embeddings, n, None))
        )
        self.words = None if words is None else self._rounded(words)
        self._matrix: ItemMatrix | None = None

    @property
    def can_list(self) -> bool:
        return self.function is not None or bool(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Coordinates of the dual encoder and of the words, of those that there are."""
        return tuple(part.shape[1] for part in (self.embeddings, self.words) if part is not None)

    @property
    def features(self) -> NDArray[np.float32] | None:
        """All that is known of the items, (n, sum of the widths)."""
        return _side_by_side(self.embeddings, self.words)

    def query_features(
        self, name: str, embeddings: Embeddings | None, queries: Sequence[Any] | None, n: int
    ) -> NDArray[np.float32] | None:
        """The same of n queries: embeddings are there if the items have some, and of the same width."""
        rows: NDArray[np.float32] | None = None
        if self.embeddings is None:
            if embeddings is not None:
                raise ValueError(f"{name}: None for an index without item_embeddings")
        elif embeddings is None:
            raise ValueError(f"{name}: an array ({n}, {self.embeddings.shape[1]}), got None")
        else:
            rows = _checked(name, embeddings, n, self.embeddings.shape[1])
        if self.lexical is None:
            return rows
        if queries is None:
            raise ValueError("queries: their texts, for an index with lexical=True, got None")
        return _side_by_side(rows, self.lexical(texts_of("queries", queries)))

    def features_of(
        self, query: Any, embedding: Embeddings | None, mean: NDArray[np.floating]
    ) -> NDArray[np.float32] | None:
        """Features (1, e) of a query whose embedding may be missing: ``mean`` stands for it beside words, and says
        nothing; None without words."""
        row = None if embedding is None else np.asarray(embedding)[None]
        if row is None and self.embeddings is not None:
            if self.lexical is None:
                return None
            row = mean[None, : self.widths[0]]
        return self.query_features("query_embedding", row, [query], 1)

    def lists(
        self, queries: Sequence[Any], features: Embeddings | None, size: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Ids (M, L <= size), best first, padded with -1; L = 0 without anything to retrieve with."""
        allowed = self.allowed if allowed is None else allowed
        if self.function is not None:
            return self._asked(queries, size, allowed)
        nothing = np.empty((len(queries), 0), np.int64)
        if features is None:
            return nothing
        if self._matrix is None:  # "auto" searches its own vectors, which hold the features
            items = self.features
            assert items is not None
            self._matrix = ItemMatrix(items.copy())  # the embeddings may be the caller's
        return self._matrix.top(features, min(size, len(self.allowed)), allowed=allowed, scored=nothing)[1]

    def add(self, items: Sequence[Any], embeddings: Embeddings | None) -> None:
        n = len(items)
        if self.embeddings is not None:
            if embeddings is None:
                raise ValueError(f"item_embeddings: an array ({n}, {self.embeddings.shape[1]}), got None")
            new = self._rounded(_checked("item_embeddings", embeddings, n, self.embeddings.shape[1]))
            self.embeddings = np.concatenate([self.embeddings, new])
        elif embeddings is not None:
            raise ValueError("item_embeddings: None for an index that was built without them")
        if self.lexical is not None and self.words is not None:
            new = self._rounded(self.lexical(texts_of("items", items)))
            self.words = np.concatenate([self.words, new])
        self._matrix = None
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

    def _rounded(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return dequantized(quantized(rows, self.dtype))

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


def _side_by_side(
    embeddings: NDArray[np.float32] | None, words: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    parts = [part for part in (embeddings, words) if part is not None]
    return np.concatenate(parts, axis=1) if parts else None
