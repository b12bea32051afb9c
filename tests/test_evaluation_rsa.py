"""Representational similarity: the correlations of SciPy on all pairs, without keeping the pairs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from simtile.evaluation import rsa as module
from simtile.evaluation.rsa import rsa, rsa_judged


def cosines(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (x @ x.T)[np.triu_indices(len(x), 1)]


@pytest.fixture
def two(rng):
    x = rng.normal(size=(90, 12))
    return x, x @ rng.normal(size=(12, 5)) + 0.3 * rng.normal(size=(90, 5))


def test_pearson_is_that_of_the_stored_pairs(two):
    x, y = two
    assert rsa(x, y, correlation="pearson") == pytest.approx(pearsonr(cosines(x), cosines(y))[0], abs=1e-12)


def test_spearman_is_exact_for_rounded_cosines(two):
    """Ties among rounded values included: three times each item."""
    x, y = (np.repeat(part, 3, axis=0) for part in two)
    grid = [np.rint(cosines(part) * 2**19) for part in (x, y)]
    assert rsa(x, y) == pytest.approx(spearmanr(*grid)[0], abs=1e-12)
    assert rsa(x, y) == pytest.approx(spearmanr(cosines(x), cosines(y))[0], abs=1e-4)


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_blocks_do_not_change_it(two, monkeypatch, correlation):
    whole = rsa(*two, correlation=correlation)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 90 * 7)
    assert rsa(*two, correlation=correlation) == pytest.approx(whole, abs=1e-12)


def test_rotation_and_scale_of_one_side_keep_it_at_one(two, rng):
    x = two[0]
    turn, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    for correlation in ("pearson", "spearman"):
        assert rsa(x, 5 * x @ turn, correlation=correlation) == pytest.approx(1, abs=1e-9)


def test_the_pairs_are_never_all_in_memory(rng):
    """4,000 items have 8 million pairs: 64 MB a side in float64."""
    x, y = rng.normal(size=(4_000, 8)), rng.normal(size=(4_000, 8))
    tracemalloc.start()
    rsa(x, y, correlation="pearson")
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()


def test_judged_pairs_are_scipys(two, rng):
    x = two[0]
    pairs = np.stack(np.triu_indices(90, 1), axis=1)[rng.permutation(4005)[:300]]
    ratings = rng.integers(1, 8, 300)
    values = [(x[i] @ x[j]) / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for i, j in pairs]
    assert rsa_judged(x, pairs, ratings) == pytest.approx(spearmanr(values, ratings)[0], abs=1e-12)
    assert rsa_judged(x, pairs, ratings, correlation="pearson") == pytest.approx(pearsonr(values, ratings)[0])


def test_a_side_without_differences_has_no_correlation():
    assert np.isnan(rsa(np.ones((4, 2)), np.eye(4)))


def test_wrong_arguments_are_named():
    x = np.eye(3)
    for run, message in (
        (lambda: rsa(x, x[:2]), "x, y: the same items"),
        (lambda: rsa(x, x, correlation="kendall"), "correlation: 'pearson' or"),
        (lambda: rsa(x * np.nan, x), "x: finite values"),
        (lambda: rsa_judged(x, [[0, 3]], [1.0]), "pairs: 0..2"),
        (lambda: rsa_judged(x, [[0.0, 1.0]], [1.0]), "pairs: integers"),
        (lambda: rsa_judged(x, [[0, 1]], [1.0, 2.0]), "ratings: 1 finite"),
    ):
        with pytest.raises(ValueError, match=message):
            run()
