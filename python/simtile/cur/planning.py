"""From a method's name to its first lists, vectors and latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.cur.knowledge import Knowledge
from simtile.cur.posterior import Choice, Posterior
from simtile.cur.published import AxnLatent, PinvLatent
from simtile.cur.retrieval import Retrieval
from simtile.cur.rounds import Method, round_sizes, usual_rounds

__all__ = ["MethodName", "Plan", "plan_search"]

MethodName: TypeAlias = Literal["auto", "rerank", "anncur", "adacur", "axn"]

PAPER_ROUNDS = 5
"""Rounds of ADACUR and AXN, in equal parts."""


@dataclass(frozen=True)
class Plan:
    """A method ready to run.

    Attributes
    ----------
    method : Method
    sizes : list of int      scorer calls per query in each round
    offset : (n,)      subtracted from the scores: the target
    """

    method: Method
    sizes: list[int]
    offset: NDArray[np.float64]


def plan_search(
    name: MethodName,
    retrieval: Retrieval,
    knowledge: Knowledge,
    queries: Sequence[Any],
    query_features: NDArray[np.floating] | None,
    *,
    k: int,
    budget: int,
    centred: bool = False,
    rounds: int | None = None,
    ridge: float | None = None,
    allowed: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Plan:
    """See `CrossEncoderIndex.search` for the arguments.

    Raises
    ------
    ValueError      an unknown method, one that needs what the index has not, or rounds < 1
    """
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds: at least 1, got {rounds}")
    if ridge is not None and ridge < 0:
        raise ValueError(f"ridge: at least 0, got {ridge}")
    allowed = retrieval.allowed if allowed is None else allowed
    offset = knowledge.learned.mean if centred else np.zeros(knowledge.scores.n)
    budget = min(budget, max(int(allowed.sum()), 1))

    def lists(size: int) -> NDArray[np.int64]:
        """The retriever's lists, or random items where there is no retriever."""
        found = retrieval.lists(queries, query_features, size, allowed)
        return found if found.shape[1] else _random(allowed, len(queries), size, seed)

    if name == "rerank":
        if not retrieval.can_list:
            raise ValueError('method: "rerank" needs item_embeddings, lexical=True or a retriever')
        return Plan(Method(lists(budget)), [budget], offset)
    if name == "anncur":
        sizes = round_sizes(budget, 2, 0.5)
        columns = knowledge.columns(centred)
        first = np.repeat(_random(allowed, 1, sizes[0], seed), len(queries), axis=0)
        return Plan(Method(first, columns, PinvLatent(columns.vectors, ridge or 0.0)), sizes, offset)
    if name in ("adacur", "axn"):
        sizes = round_sizes(budget, rounds or PAPER_ROUNDS, 1.0 / (rounds or PAPER_ROUNDS))
        first = lists(sizes[0])
        if name == "adacur":
            columns = knowledge.columns(centred)
            return Plan(Method(first, columns, PinvLatent(columns.vectors, ridge or 0.0)), sizes, offset)
        items, own_ridge = knowledge.axn_factors(centred, retrieval)
        return Plan(
            Method(first, items, AxnLatent(items.vectors, own_ridge if ridge is None else ridge)), sizes, offset
        )
    if name != "auto":
        raise ValueError(f'method: "auto", "rerank", "anncur", "adacur" or "axn", got {name!r}')
    return _auto(retrieval, knowledge, queries, query_features, k, budget, centred, rounds, allowed, offset)


def _auto(
    retrieval: Retrieval, knowledge: Knowledge, queries: Sequence[Any], query_features: NDArray[np.floating] | None,
    k: int, budget: int, centred: bool, rounds: int | None, allowed: NDArray[np.bool_], offset: NDArray[np.float64],
) -> Plan:  # fmt: skip
    # Without a query's features (`rank`) nothing can be listed for it, and the prior is popularity.
    can_list = retrieval.function is not None or query_features is not None
    choice = knowledge.choice(k, budget, rounds, centred, retrieval)
    if choice.rerank and can_list:
        return Plan(Method(retrieval.lists(queries, query_features, budget, allowed)), [budget], offset)
    if choice.rerank:
        choice = Choice()
    features = knowledge.features(retrieval)
    posterior = Posterior(features, knowledge.learned, query_features, len(queries), choice, centred)
    sizes = round_sizes(budget, rounds or usual_rounds(budget), choice.first_share)
    if retrieval.function is not None:
        first = retrieval.lists(queries, query_features, sizes[0], allowed)
    else:
        nothing = np.empty((len(queries), 0), np.int64)
        first = features.top(posterior.first, sizes[0], allowed=allowed, scored=nothing)[1]
    return Plan(Method(first, features, posterior), sizes, offset)


def _random(allowed: NDArray[np.bool_], n_queries: int, size: int, seed: int) -> NDArray[np.int64]:
    """Uniform draws (n_queries, size) of allowed items, different for each query."""
    rng = np.random.default_rng(seed)
    ids = np.flatnonzero(allowed)
    size = min(size, len(ids))
    return np.stack([rng.choice(ids, size, replace=False) for _ in range(n_queries)]).astype(np.int64)
