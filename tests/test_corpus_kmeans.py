"""k-means: fixed points in float64, scikit-learn's inertia, duplicates, threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from simtile.corpus import kmeans


def blobs(rng, n, d, k, spread=0.3):
    return (3 * rng.standard_normal((k, d))[rng.integers(0, k, n)] + spread * rng.standard_normal((n, d))).astype(
        np.float32
    )


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (50, 3, 50), (700, 17, 9), (400, 200, 30)])
def test_the_result_is_a_fixed_point(rng, metric, n, d, k):
    x = blobs(rng, n, d, max(k // 2, 1)) + (0 if metric == "cosine" else 100)
    found = kmeans(x, k, metric=metric, seed=3, max_iterations=500, tolerance=0.0)
    assert found.labels.shape == (n,) and found.centroids.shape == (k, d)
    assert np.bincount(found.labels, minlength=k).min() > 0
    rows = x.astype(np.float64)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        far = 1 - rows @ found.centroids.T.astype(np.float64)
    else:
        far = ((rows[:, None] - found.centroids[None].astype(np.float64)) ** 2).sum(axis=-1)
    own = far[np.arange(n), found.labels]
    assert (own - far.min(axis=1)).max() <= 1e-4 * max(far.max(), 1e-3), "nearest"
    assert found.inertia == pytest.approx(own.sum(), rel=1e-3, abs=1e-3)
    for label in range(k):
        mean = rows[found.labels == label].mean(axis=0)
        wanted = mean / np.linalg.norm(mean) if metric == "cosine" else mean
        np.testing.assert_allclose(found.centroids[label], wanted, rtol=1e-4, atol=1e-4)


def test_digits_fall_into_clusters_as_good_as_those_of_scikit_learn():
    x = load_digits().data
    found = kmeans(x, 10, restarts=4, seed=0)
    theirs = KMeans(10, n_init=4, random_state=0).fit(x)
    assert found.inertia <= 1.01 * theirs.inertia_


def test_seeds_and_threads_decide_every_bit(rng):
    x = rng.standard_normal((3000, 12)).astype(np.float32)
    first = kmeans(x, 20, seed=5, num_threads=1)
    for threads in (2, 5):
        again = kmeans(torch.from_numpy(x), 20, seed=5, num_threads=threads)
        np.testing.assert_array_equal(again.labels, first.labels)
        np.testing.assert_array_equal(again.centroids, first.centroids)
        assert (again.inertia, again.iterations) == (first.inertia, first.iterations)
    assert not np.array_equal(kmeans(x, 20, seed=6).centroids, first.centroids)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_more_clusters_than_distinct_vectors_leave_some_empty(rng, metric):
    x = rng.standard_normal((4, 3))[rng.integers(0, 4, 60)].astype(np.float32)
    found = kmeans(x, 9, metric=metric)
    assert len(np.unique(found.labels)) == 4 and found.inertia < 1e-5
    assert np.isfinite(found.centroids).all()


def test_an_empty_cluster_moves_to_the_farthest_vector():
    """Two seeds on one of three distant points: one of them loses all it has."""
    x = np.array([[0.0], [0.0], [0.0], [10.0], [1000.0]], np.float32)
    for seed in range(30):
        found = kmeans(x, 3, seed=seed)
        assert found.inertia == 0
        assert len(np.unique(found.labels)) == 3


def test_opposite_vectors_have_no_mean_direction_but_a_centroid():
    found = kmeans(np.array([[1.0, 0.0], [-1.0, 0.0]]), 1, metric="cosine")
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1.0)


def test_restarts_never_make_it_worse(rng):
    x = blobs(rng, 300, 2, 12)
    assert kmeans(x, 12, restarts=5, seed=1).inertia <= kmeans(x, 12, restarts=1, seed=1).inertia


X = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("k", lambda: kmeans(X, 4)),
        ("k", lambda: kmeans(X, 0)),
        ("metric", lambda: kmeans(X, 2, metric="ip")),
        ("vectors", lambda: kmeans(X * 0, 2, metric="cosine")),
        ("vectors", lambda: kmeans(X * np.inf, 2)),
        ("seed", lambda: kmeans(X, 2, seed=-1)),
        ("restarts", lambda: kmeans(X, 2, restarts=0)),
        ("max_iterations", lambda: kmeans(X, 2, max_iterations=0)),
        ("tolerance", lambda: kmeans(X, 2, tolerance=-1.0)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wrong_arguments_are_named(argument, call):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"^{argument}:"):
        call()
