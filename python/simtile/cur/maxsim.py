"""Late interaction (MaxSim) as a scorer: a query and an item are matrices of token vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.cur.scorers import Limits, Pair, Scorer

__all__ = ["MaxSimScorer"]


class MaxSimScorer(Scorer):
    """s(q, c) = Σ_t max_u <q_t, c_u>, the sum over query tokens of the best item token.

    Parameters
    ----------
    encode_query, encode_item : callable (object) -> array (tokens, D), optional
        By default queries and items are such arrays themselves
    version : str
    limits : Limits, optional

    Notes
    -----
    Khattab & Zaharia 2020, arXiv:2004.12832, eq. 3. A query is encoded once a call, so pairs come grouped by query.

    Examples
    --------
    >>> MaxSimScorer(version="toy").score([(np.eye(2), np.array([[1.0, 0.0], [0.5, 0.5]]))])
    [1.5]
    """

    one_query_per_call = True

    def __init__(
        self,
        encode_query: Callable[[Any], NDArray[np.floating]] | None = None,
        encode_item: Callable[[Any], NDArray[np.floating]] | None = None,
        *,
        version: str,
        limits: Limits | None = None,
    ) -> None:
        self._encode_query, self._encode_item = encode_query or np.asarray, encode_item or np.asarray
        self.version = version
        self.limits = limits or Limits(batch_size=1024)

    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        query = self._encode_query(pairs[0][0])
        items = [self._encode_item(item) for _, item in pairs]
        starts = np.cumsum([0, *(len(tokens) for tokens in items[:-1])])
        best = np.maximum.reduceat(query @ np.concatenate(items).T, starts, axis=1)
        scores: list[float] = best.sum(axis=0, dtype=np.float64).tolist()
        return scores
