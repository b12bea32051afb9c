"""What a search gives back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from simtile.cur.calls import CallStats
from simtile.cur.rounds import Scored

__all__ = ["Hit", "SearchResults", "best_hits"]

Hit: TypeAlias = dict[str, Any]
"""``{"corpus_id": int, "score": float}``, as ``CrossEncoder.rank`` of sentence-transformers returns it."""


class SearchResults(list[list[Hit]]):
    """Hits of each query, best first, with what they cost.

    Attributes
    ----------
    stats : CallStats      of this search
    """

    def __init__(self, hits: Sequence[list[Hit]], stats: CallStats) -> None:
        super().__init__(hits)
        self.stats = stats


def best_hits(scored: Scored, exact: dict[tuple[int, int], float], k: int) -> list[list[Hit]]:
    """The k best of each query by the target, with the scorer's own scores {(query, item): score}."""
    results = []
    for query, (ids, values) in enumerate(zip(scored.ids, scored.values, strict=True)):
        order = np.lexsort((ids, -values))[: int(np.isfinite(values).sum())][:k]
        results.append([{"corpus_id": item, "score": exact[query, item]} for item in ids[order].tolist()])
    return results


def document(item: Any, id: int, score: float) -> tuple[str, dict[str, Any], float]:
    """(text, metadata, score) of an item that is a text, or a mapping with a "text"."""
    fields = {"text": item} if isinstance(item, str) else dict(item)
    return fields.pop("text"), {**fields, "corpus_id": id, "score": score}, score
