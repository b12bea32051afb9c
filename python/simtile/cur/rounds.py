"""The loop that all search methods share: propose items, buy their scores, learn, propose again.

A method is a first list of candidates, item vectors, and a rule that makes a latent vector out of the scores bought so
far. The rounds of all queries run together, so that the scorer sees whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simtile.cur.item_matrix import ItemMatrix

__all__ = ["Latent", "Method", "Scored", "round_sizes", "run_rounds", "usual_rounds"]

Ids = NDArray[np.int64]
Values = NDArray[np.float64]
Buy = Callable[[Ids, Ids], Values]
"""(queries (B,), item ids (B, t) padded with -1) -> scores (B, t), NaN where there is none."""


@dataclass(frozen=True)
class Scored:
    """What has been asked about M queries.

    Attributes
    ----------
    ids : int64 (M, t)      padded with -1
    values : float64 (M, t)      in the units of the target; NaN where the scorer gave nothing, and at padding
    """

    ids: Ids
    values: Values

    @staticmethod
    def nothing(n_queries: int) -> Scored:
        return Scored(np.empty((n_queries, 0), np.int64), np.empty((n_queries, 0)))

    def with_more(self, ids: Ids, values: Values) -> Scored:
        return Scored(np.concatenate([self.ids, ids], axis=1), np.concatenate([self.values, values], axis=1))

    def rows(self, which: NDArray[np.bool_] | Ids) -> Scored:
        return Scored(self.ids[which], self.values[which])


class Latent(Protocol):
    """Makes latent vectors of all items' predictions."""

    def __call__(self, queries: Ids, scored: Scored) -> NDArray[np.floating]:
        """Latents (B, D) of the queries numbered ``queries`` (B,), whose scores are ``scored`` (B, t)."""

    def is_settled(
        self, queries: Ids, scored: Scored, k: int, best: Ids, predicted: NDArray[np.floating]
    ) -> NDArray[np.bool_] | None:
        """Which of the queries (B,) will hardly change their top k any more (bool), or None if that is not known.

        ``best`` (B, m) are the unscored items with the largest predictions (B, m).
        """


@dataclass(frozen=True)
class Method:
    """A first list (M, L) of candidates, padded with -1, then rounds of ``latent @ items.T``; without items a list
    only."""

    first: Ids
    items: ItemMatrix | None = None
    latent: Latent | None = None


def usual_rounds(budget: int) -> int:
    """Rounds of "auto" for a budget: of some 16 calls, a small batch of a scorer; 4 at least, 12 at most.

    Each round knows more than the one before, and there is less and less to gain from that.
    """
    return min(12, max(4, budget // 16))


def round_sizes(budget: int, rounds: int, first_share: float) -> list[int]:
    """Scorer calls of each round: a share of the budget first, the rest in equal parts, largest first.

    >>> round_sizes(100, 3, 0.5)
    [50, 25, 25]
    """
    if rounds == 1:
        return [budget]
    first = min(max(round(first_share * budget), 1), budget)
    rest, later = budget - first, rounds - 1
    return [first, *(size for i in range(later) if (size := rest // later + (i < rest % later)))]


def run_rounds(
    method: Method,
    sizes: Sequence[int],
    buy: Buy,
    *,
    allowed: NDArray[np.bool_] | None = None,
    settled_k: int | None = None,
) -> Scored:
    """Spend ``sizes[r]`` calls per query in round r.

    Parameters
    ----------
    method : Method
    sizes : sequence of int      what a short first list leaves over is spent in the second round
    buy : callable (queries (B,), ids (B, t)) -> values (B, t)
    allowed : bool (n,), optional      the items that may be proposed
    settled_k : int, optional      stop asking about a query as soon as the method calls its top ``settled_k`` settled
    """
    n_queries = len(method.first)
    first = method.first[:, : sizes[0]]
    everyone = np.arange(n_queries)
    scored = Scored.nothing(n_queries).with_more(first, buy(everyone, first))
    if method.items is None or method.latent is None:
        return scored
    left = sizes[0] - first.shape[1]
    open_queries = everyone
    for size in sizes[1:]:
        known = scored.rows(open_queries)
        predicted, ids = method.items.top(
            method.latent(open_queries, known), size + left, allowed=allowed, scored=known.ids
        )
        left = 0
        if settled_k is not None:
            done = method.latent.is_settled(open_queries, known, settled_k, ids, predicted)
            if done is not None:
                open_queries, ids = open_queries[~done], ids[~done]
        if not len(open_queries):
            break
        more_ids = np.full((n_queries, ids.shape[1]), -1, np.int64)
        more_values = np.full(more_ids.shape, np.nan)
        more_ids[open_queries], more_values[open_queries] = ids, buy(open_queries, ids)
        scored = scored.with_more(more_ids, more_values)
    return scored
