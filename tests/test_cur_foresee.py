"""Factors of a query foreseen from its embedding: the regression against a naive one, and what it gives a search."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simtile.cur import CallableScorer, CrossEncoderIndex, Limits, foresee as module
from simtile.cur.foresee import foresee

N, E, D = 60, 12, 3


def centred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x - x.mean(axis=0))


@pytest.mark.parametrize("e", [E, 2 * N])
def test_left_out_queries_are_those_of_regressions_without_them(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, e: int
) -> None:
    monkeypatch.setattr(module, "_STRENGTHS", (0.3,))
    monkeypatch.setattr(module, "_LEAST_VARIANCE", 0.0)
    queries = centred(rng.normal(size=(N, e)))
    left = centred(queries[:, :D] + 0.5 * rng.normal(size=(N, D)))
    ridge = np.diag(np.append(np.full(e, 0.3 * (queries**2).sum() / N), 0.0))  # none on the constant
    design = np.hstack([queries, np.ones((N, 1))])
    without = np.empty_like(left)
    for q in range(N):
        rest = np.arange(N) != q
        without[q] = design[q] @ np.linalg.solve(design[rest].T @ design[rest] + ridge, design[rest].T @ left[rest])
    slope = np.clip((without * left).sum(axis=0) / (without**2).sum(axis=0), 0.0, 1.0)
    coefficients, variance = foresee(left, queries, np.ones(D))
    np.testing.assert_allclose(variance, ((left - slope * without) ** 2).mean(axis=0) / (left**2).mean(axis=0))
    whole = np.linalg.solve(design.T @ design + ridge, design.T @ left)[:-1]
    np.testing.assert_allclose(coefficients, whole * slope, atol=1e-12)


def test_what_embeddings_tell_and_what_they_do_not_is_found(rng: np.random.Generator) -> None:
    queries = centred(rng.normal(size=(400, E)))
    told, half, untold = queries[:, :1] * 1.0, queries[:, 1:2] + rng.normal(size=(400, 1)), rng.normal(size=(400, 1))
    left = centred(np.hstack([told, half, untold]))
    coefficients, variance = foresee(left, queries, np.ones(3))
    np.testing.assert_allclose(variance, [0.05, 0.5, 1.0], atol=0.1)
    assert 0.8 < coefficients[0, 0] <= 1.0 and 0.6 < coefficients[1, 1] < 1.2
    assert np.abs(coefficients[:, 2]).max() < 0.1


@pytest.mark.parametrize("queries", [np.zeros((2, 4)), np.zeros((5, 0)), np.zeros((5, 4))])
def test_too_little_to_learn_from_foresees_nothing(queries: NDArray[np.float64]) -> None:
    coefficients, variance = foresee(np.ones((len(queries), D)), queries, np.ones(D))
    assert coefficients.shape == (queries.shape[1], D) and not coefficients.any()
    np.testing.assert_array_equal(variance, 1.0)


@pytest.mark.parametrize("dense", [True, False])
def test_a_search_expects_the_factors_that_similar_queries_had(rng: np.random.Generator, dense: bool) -> None:
    n_build, n_items = 150, 200
    queries, items = rng.normal(size=(n_build + 10, E)), rng.normal(size=(n_items, E))
    told, untold = queries @ rng.normal(size=(E, E)), rng.normal(size=(n_build + 10, E))
    weights = rng.normal(size=(E, n_items))
    found = {}
    for name, left in (("told", told), ("untold", untold)):  # nothing that <query, item> would know
        scores = left @ weights
        scorer = CallableScorer(
            lambda pairs, scores=scores: [scores[q, i] for q, i in pairs], version=name, limits=Limits(batch_size=999)
        )
        index = CrossEncoderIndex.build(
            range(n_items), scorer, queries=range(n_build), query_embeddings=queries[:n_build].astype(np.float32),
            item_embeddings=items.astype(np.float32), dense=dense, calls_per_query=60, rank=E,
        )  # fmt: skip
        hits = index.search(
            range(n_build, n_build + 10), 5, budget=10, method="auto",
            query_embeddings=queries[n_build:].astype(np.float32),
        )  # fmt: skip
        best = np.argsort(-scores[n_build:], axis=1)[:, :5]
        found[name] = np.mean(
            [np.isin(row, [hit["corpus_id"] for hit in its]).mean() for row, its in zip(best, hits, strict=True)]
        )
    assert found["told"] > found["untold"] + 0.2, found
