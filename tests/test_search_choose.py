"""Which index `search.build` takes, and that its reasons are those of the figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simtile import search
from simtile.search import choose


def test_few_items_few_queries_and_a_recall_of_one_are_exact() -> None:
    assert search.explain(1_000, 384).index == "exact"
    assert search.explain(1_000_000, 384, queries=100).index == "exact"
    assert search.explain(1_000_000, 384, queries=10**9).index == "graph"
    assert search.explain(1_000_000, 384, queries=10**9, recall=1.0).index == "exact"


@pytest.mark.parametrize("n", [10_000, 100_000, 10**7])
@pytest.mark.parametrize("codes", [True, False])
def test_more_queries_never_make_the_exact_index_the_better_one(n: int, codes: bool) -> None:
    chosen = [search.explain(n, 384, queries=10**e, codes=codes) for e in range(10)]
    kinds = [choice.index for choice in chosen]
    assert kinds == sorted(kinds), "exact first, then graph"
    for choice in chosen:
        assert choice.index == ("graph" if choice.graph_seconds < choice.exact_seconds else "exact")
        assert f"{choice.exact_seconds:.3g} CPU s exact" in choice.reason


def test_the_index_is_the_one_that_was_explained_and_reaches_its_recall(monkeypatch: Any) -> None:
    monkeypatch.setattr(choose, "_WALK", 1e-8)  # so few columns are scanned faster than any walk
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5_000, 16)).astype(np.float32)
    exact = search.build(vectors, queries=10, metric="l2")
    assert isinstance(exact, search.ExactIndex)
    graph = search.build(vectors, queries=10**8, recall=0.9, metric="l2")
    assert isinstance(graph, search.GraphIndex)
    queries = vectors[:300] + 0.1 * rng.standard_normal((300, 16)).astype(np.float32)
    near, truth = graph.search(queries, 10)[1], exact.search(queries, 10)[1]
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.tolist(), truth.tolist(), strict=True)])
    assert found >= 0.85


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recall": 0}, ValueError, "recall"), ({"recall": 1.1}, ValueError, "recall"),
        ({"recall": float("nan")}, ValueError, "recall"), ({"queries": -1}, ValueError, "queries"),
        ({"queries": 1.5}, TypeError, "queries"), ({"metric": "dot"}, ValueError, "metric"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        search.build(np.eye(3, dtype=np.float32), **options)
