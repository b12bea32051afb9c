"""Neighbours of all items and ranges: what a search, or sorting all float64 scores, returns."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from simtile.search import ExactIndex

Metric = Literal["ip", "cosine", "l2"]
METRICS: tuple[Metric, ...] = ("ip", "cosine", "l2")
PASSES: tuple[Literal["i8", "f32"], ...] = ("i8", "f32")


def vectors(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Clusters with duplicates, a zero row and an outlier, where there is room for them."""
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((8, d))[rng.integers(0, 8, n)] + 0.3 * rng.standard_normal((n, d))).astype(np.float32)
    if n > 20:
        rows[3], rows[5], rows[11], rows[12] = rows[2], 0, rows[11] * 1e5, rows[2]
    return rows


def without_self(found: tuple[Any, Any], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lists of k + 1 of all items, each without the item itself."""
    scores, ids = found
    keep = ids != np.arange(len(ids))[:, None]
    keep[keep.all(axis=1), -1] = False
    return scores[keep].reshape(-1, k), ids[keep].reshape(-1, k)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("first_pass", PASSES)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 2, 3), (5, 3, 2), (40, 7, 39), (1500, 33, 10)])
def test_the_graph_is_a_search_for_all_items_without_themselves(
    metric: Metric, first_pass: Literal["i8", "f32"], n: int, d: int, k: int
) -> None:
    index = ExactIndex(vectors(n, d), metric=metric, first_pass=first_pass)
    scores, ids = index.knn_graph(k)
    wanted_scores, wanted_ids = without_self(index.search(vectors(n, d), k + 1), k)
    np.testing.assert_array_equal(ids, wanted_ids)
    np.testing.assert_array_equal(scores, wanted_scores)


def test_neither_threads_nor_first_pass_change_a_bit_of_the_graph() -> None:
    rows = vectors(2500, 24, seed=1)
    first = ExactIndex(rows, first_pass="f32").knn_graph(7, num_threads=1)
    for first_pass in PASSES:
        for num_threads in (1, 2, 5):
            again = ExactIndex(rows, first_pass=first_pass).knn_graph(7, num_threads=num_threads)
            np.testing.assert_array_equal(again[0], first[0])
            np.testing.assert_array_equal(again[1], first[1])


def test_item_scale_and_bias_rank_the_neighbours() -> None:
    rows, bias = vectors(300, 9), np.linspace(-5, 5, 300, dtype=np.float32)
    index = ExactIndex(rows, item_bias=bias)
    _, ids = index.knn_graph(4)
    np.testing.assert_array_equal(ids, without_self(index.search(rows, 5), 4)[1])


def test_graph_and_range_come_as_the_kind_that_went_in() -> None:
    rows = torch.eye(3)
    index = ExactIndex(rows)
    assert all(isinstance(part, torch.Tensor) for part in (*index.knn_graph(1), *index.range_search(rows, 0.5)))
    assert index.knn_graph(0)[1].shape == (3, 0)
    assert ExactIndex(rows[:0]).knn_graph(2)[1].shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    first_pass=st.sampled_from(PASSES),
    n=st.integers(0, 300),
    radius=st.floats(-20, 60, width=32, allow_subnormal=False),
    seed=st.integers(0, 5),
)
def test_a_range_is_the_part_of_a_full_ranking_within_the_radius(
    metric: Metric, first_pass: Literal["i8", "f32"], n: int, radius: float, seed: int
) -> None:
    rows, queries = vectors(n, 6, seed), vectors(4, 6, seed + 1)
    index = ExactIndex(rows, metric=metric, first_pass=first_pass)
    indptr, scores, ids = index.range_search(queries, radius)
    all_scores, all_ids = index.search(queries, n)
    all_scores = all_scores.astype(np.float64)  # else the radius would be rounded
    for i in range(4):
        within = all_scores[i] <= radius if metric == "l2" else all_scores[i] >= radius
        np.testing.assert_array_equal(ids[indptr[i] : indptr[i + 1]], all_ids[i][within])
        np.testing.assert_array_equal(scores[indptr[i] : indptr[i + 1]], all_scores[i][within])


def test_a_filter_holds_for_ranges() -> None:
    _, _, ids = ExactIndex(vectors(50, 4)).range_search(vectors(1, 4), -np.inf, filter=np.array([3, 40]))
    assert sorted(ids) == [3, 40]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda index: index.knn_graph(-1), ValueError, "k: at least 0"),
        (lambda index: index.knn_graph(1.5), TypeError, "k: an integer"),
        (lambda index: index.range_search(np.zeros((1, 4)), float("nan")), ValueError, "radius: wanted a number"),
        (lambda index: index.range_search(np.zeros((1, 4)), "1"), TypeError, "radius: a number"),
        (lambda index: index.range_search(np.zeros((1, 3)), 1.0), ValueError, "queries: 4 columns"),
        (lambda index: index.range_search(np.full((1, 4), np.nan), 1.0), ValueError, "queries: finite"),
    ],
)
def test_errors_name_the_argument(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(ExactIndex(vectors(50, 4)))
