"""Facility location: the naive greedy choice in float64, and the best set of all, against the lazy one."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from simtile.corpus import facility_location, facility_location_graph, facility_location_matrix
from simtile.search import ExactIndex


def similarities(x, metric):
    """(N, N) in float64, as the docstring says."""
    x = x.astype(np.float64)
    if metric == "cosine":
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
        return 1.0 + unit @ unit.T
    x = x - x.mean(axis=0)
    squares = (x**2).sum(axis=1)
    return 4 * squares.max() - np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)


def naive(s, size):
    """All gains each time: the specification. Row j of s: candidate j."""
    cover, ids, gains = np.zeros(s.shape[1]), [], []
    for _ in range(size):
        gain = np.maximum(s - cover, 0).sum(axis=1)
        gain[ids] = -1
        ids.append(int(gain.argmax()))
        gains.append(gain[ids[-1]])
        cover = np.maximum(cover, s[ids[-1]])
    return np.array(ids), np.array(gains), s[ids].argmax(axis=0)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
# One item; one tile; ragged beyond a block of rows, in threads; wide rows.
@pytest.mark.parametrize(("n", "d", "size"), [(1, 1, 1), (40, 5, 40), (1100, 7, 30), (150, 300, 20)])
def test_every_choice_is_the_naive_one(rng, metric, n, d, size):
    x = (rng.standard_normal((6, d))[rng.integers(0, 6, n)] + 0.5 * rng.standard_normal((n, d))).astype(np.float32)
    found = facility_location(x, size, metric=metric, num_threads=2)
    s, cover = similarities(x, metric), np.zeros(n)
    rounding = 1e-6 * n * s.max()
    for chosen, gain in zip(found.ids, found.gains, strict=True):
        gains = np.maximum(s - cover, 0).sum(axis=1)  # float32 may tell apart what is nearly equal, and no more
        assert gains[chosen] >= gains.max() - rounding
        assert abs(gain - gains[chosen]) <= rounding
        cover = np.maximum(cover, s[chosen])
    owner = s[found.ids[found.owners], np.arange(n)]
    assert (owner >= cover - rounding / n).all()
    np.testing.assert_array_equal(found.weights, np.bincount(found.owners, minlength=size))


def test_the_lazy_choice_is_the_naive_one_to_the_bit(rng):
    x = rng.integers(-2, 3, (90, 2)).astype(np.float32)
    x = np.concatenate([x, -x])  # their mean is 0: all similarities are small integers
    s = similarities(x, "l2")
    ids, gains, owners = naive(s, 60)
    for found in (facility_location(x, 60, metric="l2"), facility_location_matrix(s, 60)):
        np.testing.assert_array_equal(found.ids, ids)
        np.testing.assert_array_equal(found.gains, gains)
        np.testing.assert_array_equal(found.owners, owners)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_value_is_near_the_best_of_all_sets(rng, size):
    for _ in range(10):
        s = rng.random((9, 12)) ** 3
        best = max(s[list(some)].max(axis=0).sum() for some in itertools.combinations(range(9), size))
        value = facility_location_matrix(s, size).gains.sum()
        assert (1 - 1 / np.e) * best <= value <= best * (1 + 1e-6)


def test_a_graph_is_the_matrix_of_its_lists(rng):
    x = rng.standard_normal((200, 6)).astype(np.float32)
    scores, neighbours = ExactIndex(x, metric="cosine").knn_graph(8)
    neighbours[5, 6:] = -1
    s = np.zeros((200, 200), np.float32)
    rows = np.repeat(np.arange(200), 8).reshape(200, 8)
    s[neighbours[neighbours >= 0], rows[neighbours >= 0]] = np.maximum(scores[neighbours >= 0], 0)
    np.fill_diagonal(s, 1.0)
    found, whole = facility_location_graph(scores, neighbours, 25), facility_location_matrix(s, 25)
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.ids, naive(s.astype(np.float64), 25)[0])
    uncovered = s[found.ids].max(axis=0) == 0
    assert uncovered.any()
    np.testing.assert_array_equal(found.owners == -1, uncovered)
    assert found.weights.sum() == 200 - uncovered.sum()


def test_classes_are_chosen_from_one_by_one(rng):
    x, labels = rng.standard_normal((120, 4)).astype(np.float32), rng.choice([7, -1, 3], 120, p=[0.6, 0.3, 0.1])
    found = facility_location(torch.from_numpy(x), 12, metric="l2", labels=labels)
    np.testing.assert_array_equal(labels[found.ids[found.owners]], labels)
    assert len(set(found.ids)) == 12 and found.weights.sum() == 120
    before = 0
    for label in (-1, 3, 7):
        of = np.flatnonzero(labels == label)
        share = int((labels[found.ids] == label).sum())
        assert abs(share - 12 * len(of) / 120) < 1
        alone = facility_location(x[of], share, metric="l2")
        np.testing.assert_array_equal(found.ids[before : before + share], of[alone.ids])
        np.testing.assert_array_equal(found.weights[before : before + share], alone.weights)
        before += share


def test_threads_change_no_bit(rng):
    x = rng.standard_normal((2100, 9)).astype(np.float32)
    first = facility_location(x, 15, num_threads=1)
    for threads in (2, 5):
        for one, other in zip(first, facility_location(x, 15, num_threads=threads), strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_matrix_of_all_pairs_is_made(rng):
    x = rng.standard_normal((20_000, 8)).astype(np.float32)
    tracemalloc.start()
    found = facility_location(x, 2, metric="l2")
    assert tracemalloc.get_traced_memory()[1] < 16e6  # NumPy's; the engine packs 4 N D bytes
    tracemalloc.stop()
    assert found.weights.sum() == 20_000


def test_far_from_the_origin_distances_still_count(rng):
    x = rng.standard_normal((100, 3)).astype(np.float32)
    far = (x + 4096).astype(np.float32)
    near = (far - 4096).astype(np.float32)
    np.testing.assert_array_equal(
        facility_location(far, 10, metric="l2").ids, facility_location(near, 10, metric="l2").ids
    )


X = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("size", lambda: facility_location(X, 4)),
        ("size", lambda: facility_location(X, 0)),
        ("size", lambda: facility_location(X, 1, labels=np.array([0, 0, 1]))),
        ("labels", lambda: facility_location(X, 2, labels=np.array([0, 0]))),
        ("metric", lambda: facility_location(X, 2, metric="ip")),
        ("vectors", lambda: facility_location(X * np.nan, 2)),
        ("vectors", lambda: facility_location(X * 1e30, 2, metric="l2")),
        ("size", lambda: facility_location_matrix(X, 4)),
        ("similarity", lambda: facility_location_matrix(-X, 2)),
        ("similarity", lambda: facility_location_matrix(X[0], 1)),
        ("scores", lambda: facility_location_graph(X, np.zeros((3, 2), int), 1)),
        ("scores", lambda: facility_location_graph(X * np.nan, np.zeros((3, 3), int), 1)),
        ("ids", lambda: facility_location_graph(X, np.full((3, 3), 3), 1)),
        ("self_similarity", lambda: facility_location_graph(X, np.zeros((3, 3), int), 1, self_similarity=-1.0)),
    ],
)
def test_wrong_arguments_are_named(argument, call):
    with pytest.raises(ValueError, match=f"^{argument}"):
        call()
