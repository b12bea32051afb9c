"""Which scores a sparse index buys: some that the retriever lists, a draw from the rest, then what these let expect.

A search depends on how well the best items are told apart, and which of them the retriever misses, only scores can
show. So a quarter of the calls goes to its list and a draw, and the rest in rounds to the items that the model of all
scores so far expects to score highest, as in a search. Where a function retrieves, all calls go to its list and the
draw: how a search of its list would end is known only as deep as the list was bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.cur.buying import Shop
from simtile.cur.journal import content_key
from simtile.cur.knowledge import Knowledge
from simtile.cur.learned import BuildScores, learn
from simtile.cur.posterior import Choice, Posterior, features_of
from simtile.cur.retrieval import Retrieval
from simtile.cur.rounds import Scored

__all__ = ["buy_sample"]

Ids = NDArray[np.int64]

_ROUNDS = 4
_LEAST = 16
"""Calls of a query that a round is worth."""
_LISTED_SHARE = 0.75
_FLOATS_AT_ONCE = 1 << 24
"""Bound of the features of the scored items of some queries: 128 MiB."""


def buy_sample(
    shop: Shop,
    queries: Sequence[Any],
    knowledge: Knowledge,
    retrieval: Retrieval,
    candidates: Ids,
    calls: int,
    *,
    seed: int,
    in_rounds: bool,
    progress: bool,
) -> None:
    """Score each build query with ``calls`` of the candidates, and tell ``knowledge`` which of them were not drawn.

    Parameters
    ----------
    candidates : int64 (C,)      ids
    calls : int      a query
    seed : int      of the draws
    in_rounds : bool      learn between rounds, unless a function retrieves. What is chosen follows from the scores of
        this build alone, so that one that died goes on as it began
    """
    calls = min(calls, len(candidates))
    rounds = max(min(_ROUNDS, calls // _LEAST), 1) if in_rounds and retrieval.function is None else 1
    later = calls // rounds
    first = calls - later * (rounds - 1)
    lists = retrieval.lists(queries, knowledge.query_features, int(_LISTED_SHARE * first))
    lists = np.where(np.isin(lists, candidates), lists, -1)
    chosen = [row[row >= 0] for row in lists]
    bought = [_with_draw(query, its, candidates, first, seed) for query, its in zip(queries, chosen, strict=True)]
    shop.buy_all(queries, bought, progress=progress)
    for _ in range(1, rounds):
        more = _expected_best(shop, queries, knowledge, retrieval, candidates, bought, later)
        shop.buy_all(queries, more, progress=progress)
        chosen = [np.concatenate(both) for both in zip(chosen, more, strict=True)]
        bought = [np.concatenate(both) for both in zip(bought, more, strict=True)]
    known = knowledge.listed or [np.empty(0, np.int64)] * len(queries)
    knowledge.listed = [np.concatenate(both) for both in zip(known, chosen, strict=True)]


def _with_draw(query: Any, best: Ids, candidates: Ids, calls: int, seed: int) -> Ids:
    """The listed ids and a draw from all others; the same every time."""
    best = best[:calls]
    others = np.setdiff1d(candidates, best)
    rng = np.random.default_rng([seed, *np.frombuffer(content_key(query), np.uint32).tolist()])
    return np.concatenate([best, rng.choice(others, calls - len(best), replace=False)])


def _expected_best(
    shop: Shop, queries: Sequence[Any], knowledge: Knowledge, retrieval: Retrieval, candidates: Ids, bought: list[Ids],
    size: int,
) -> list[Ids]:  # fmt: skip
    """For each query the candidates, not bought yet, that what was bought lets expect the highest scores of."""
    everything = shop.rows_of(shop.journal.query_numbers(queries))
    scores = _only(everything, bought)
    known, items = knowledge.query_features, retrieval.features
    learned = learn(scores, knowledge.rank, queries=known, items=items, widths=retrieval.widths, iterations=4)
    features = features_of(learned, items)
    allowed = np.zeros(scores.n, np.bool_)
    allowed[candidates] = True
    more: list[Ids] = []
    step = max(_FLOATS_AT_ONCE // (max(map(len, bought)) * features.vectors.shape[1]), 1)
    for start in range(0, len(queries), step):
        rows = range(start, min(start + step, len(queries)))
        own = None if known is None else known[rows.start : rows.stop]
        posterior = Posterior(features, learned, own, len(rows), Choice(), False)
        latent = posterior(np.arange(len(rows)), _padded(scores, rows))
        ids = features.top(latent, size, allowed=allowed, scored=_padded_ids([bought[q] for q in rows]))[1]
        more.extend(row[row >= 0] for row in ids)
    return more


def _only(scores: BuildScores, wanted: list[Ids]) -> BuildScores:
    masks = [np.isin(ids, its) for ids, its in zip(scores.ids, wanted, strict=True)]
    ids = [its[mask] for its, mask in zip(scores.ids, masks, strict=True)]
    return BuildScores(ids, [values[mask] for values, mask in zip(scores.values, masks, strict=True)], scores.n)


def _padded(scores: BuildScores, rows: range) -> Scored:
    ids = _padded_ids([scores.ids[q] for q in rows])
    values = np.full(ids.shape, np.nan)
    values[ids >= 0] = np.concatenate([scores.values[q] for q in rows])
    return Scored(ids, values)


def _padded_ids(lists: list[Ids]) -> Ids:
    padded = np.full((len(lists), max(map(len, lists))), -1, np.int64)
    for row, its_ids in zip(padded, lists, strict=True):
        row[: len(its_ids)] = its_ids
    return padded
