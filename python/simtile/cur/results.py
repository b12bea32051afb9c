"""What a search gives back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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


def best_hits(scored: Scored, offset: NDArray[np.float64], k: int) -> list[list[Hit]]:
    """The k best by the target, reported with the scorer's own scores."""
    results = []
    for ids, values in zip(scored.ids, scored.values, strict=True):
        order = np.lexsort((ids, -values))[: int(np.isfinite(values).sum())][:k]
        results.append([{"corpus_id": int(ids[i]), "score": float(values[i] + offset[ids[i]])} for i in order])
    return results
