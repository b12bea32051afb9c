"""Data importance: the multilinear extension by definition, over all subsets, against the recurrences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from simtile.corpus import importance_gradient, learn_importance, prune_threshold


def enumerated(f, p, k):
    """U and its gradient over all 2^M subsets of one list, in float64: the specification."""
    value, gradient = 0.0, np.zeros(len(f))
    for there in itertools.product((False, True), repeat=len(f)):
        used = [i for i, present in enumerate(there) if present][:k]
        utility = sum(f[i] for i in used) / k
        chances = np.where(there, p, 1 - p)
        value += utility * chances.prod()
        for i, present in enumerate(there):
            gradient[i] += utility * np.delete(chances, i).prod() * (1 if present else -1)
    return value, gradient


@pytest.mark.parametrize(("m", "k"), [(1, 1), (2, 1), (5, 2), (9, 1), (9, 4), (9, 9), (9, 20)])
def test_value_and_gradient_are_those_of_all_subsets(rng, m, k):
    f, p = rng.standard_normal((3, m)), rng.random(3 * m)
    p[::4] = (rng.random(len(p[::4])) < 0.5).astype(float)  # certain ones, too
    ids = rng.permutation(3 * m).reshape(3, m)
    value, gradient = importance_gradient(ids, f, p, k=k)
    wanted, of_items = 0.0, np.zeros(3 * m)
    for row, utility in zip(ids, f, strict=True):
        one, slopes = enumerated(utility, p[row], k)
        wanted += one / 3
        of_items[row] += slopes / 3
    assert abs(value - wanted) < 1e-12
    np.testing.assert_allclose(gradient, of_items, rtol=0, atol=1e-12)


def test_lists_that_share_items_add_up(rng):
    ids = np.array([[0, 1, 2, 3], [3, 1, 0, -1], [2, -1, -1, -1]])
    f, p = rng.random((3, 4)), rng.random(5)
    _, gradient = importance_gradient(ids, f, p, k=2)
    wanted = np.zeros(5)
    for row, utility in zip(ids, f, strict=True):
        kept = row >= 0
        wanted[row[kept]] += enumerated(utility[kept], p[row[kept]], 2)[1] / 3
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-15)
    assert gradient[4] == 0


def test_with_a_slot_for_every_item_the_gradient_is_the_utility_over_k(rng):
    f, p = rng.standard_normal((20, 30)), rng.random(600)
    ids = np.arange(600).reshape(20, 30)
    for k in (30, 31, 1000):
        _, gradient = importance_gradient(ids, f, p, k=k)
        np.testing.assert_allclose(gradient.reshape(20, 30), f / k / 20, rtol=0, atol=1e-15)


@given(seed=st.integers(0, 1000), k=st.integers(1, 12))
def test_a_part_of_the_corpus_has_its_own_utility(seed, k):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((6, 15)), axis=1)[:, :10]
    f, kept = rng.random((6, 10)), rng.random(15) < 0.6
    of_lists = [utilities[kept[row]][:k].sum() / k for row, utilities in zip(ids, f, strict=True)]
    assert importance_gradient(ids, f, kept, k=k)[0] == pytest.approx(np.mean(of_lists), abs=1e-14)


def test_threads_change_no_bit_and_tensors_are_taken(rng):
    ids = np.argsort(rng.random((300, 90)), axis=1)[:, :40]
    f, p = rng.random((300, 40)), rng.random(90)
    value, gradient = importance_gradient(ids, f, p, k=7, num_threads=1)
    for threads in (2, 5):
        again = importance_gradient(
            torch.from_numpy(ids), torch.from_numpy(f), torch.from_numpy(p), k=7, num_threads=threads
        )
        assert again[0] == value and np.array_equal(again[1], gradient)


def test_ascent_is_the_projected_gradient_step_by_step(rng):
    ids = np.argsort(rng.random((40, 25)), axis=1)[:, :12]
    f, groups = (rng.random((40, 12)) < 0.5).astype(float), rng.integers(0, 6, 25) * 3
    found = learn_importance(ids, f, k=3, groups=groups, steps=8, learning_rate=30.0)
    weights = np.full(25, 0.5)
    for step in range(8):
        value, gradient = importance_gradient(ids, f, weights, k=3)
        assert found.utility[step] == value
        moved = weights + 30.0 * gradient
        for group in np.unique(groups):  # the nearest point of equal weights, then of the box
            weights[groups == group] = np.clip(moved[groups == group].mean(), 0, 1)
    np.testing.assert_allclose(found.weights, weights, rtol=0, atol=1e-13)
    assert found.utility[-1] > found.utility[0]
    alone = learn_importance(ids, f, k=3, groups=np.arange(25), steps=5)
    assert np.array_equal(alone.weights, learn_importance(ids, f, k=3, steps=5).weights)


def test_wrong_sources_lose_their_weight_and_are_pruned(rng):
    good = rng.random(60) < 0.5
    ids = np.argsort(rng.random((200, 60)), axis=1)[:, :20]
    right = (rng.random((200, 20)) < np.where(good, 0.9, 0.1)[ids]).astype(float)
    found = learn_importance(ids, right, k=3, num_items=61, steps=60)
    assert found.weights[:60][~good].max() < 0.1 < 0.5 < np.mean(found.weights[:60][good])
    assert found.weights[60] == 0.5, "never retrieved"
    best = prune_threshold(ids, right, found.weights, k=3)
    assert best.utility == importance_gradient(ids, right, found.weights >= best.threshold, k=3)[0]
    assert best.utility > importance_gradient(ids, right, np.ones(61), k=3)[0] + 0.2


GOOD = {"ids": np.array([[0, 1]]), "utilities": np.ones((1, 2)), "weights": np.ones(2), "k": 1}


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("ids", np.array([[0, 2]]), ValueError),
        ("ids", np.array([[0, -2]]), ValueError),
        ("ids", np.array([[1, 1]]), ValueError),
        ("ids", np.zeros((1, 2)), TypeError),
        ("ids", [[0, 1]], TypeError),
        ("ids", np.empty((0, 2), np.int64), ValueError),
        ("utilities", np.ones((2, 1)), ValueError),
        ("utilities", np.array([[1.0, np.nan]]), ValueError),
        ("utilities", np.ones((1, 2), complex), TypeError),
        ("weights", np.array([0.5, 1.5]), ValueError),
        ("weights", np.ones((2, 1)), ValueError),
        ("k", 0, ValueError),
        ("k", 1.0, TypeError),
    ],
)
def test_wrong_arguments_are_named(argument, value, error):
    arguments = {**GOOD, argument: value}
    if argument == "ids" and isinstance(value, np.ndarray) and len(value) == 0:
        arguments["utilities"] = np.ones((0, 2))
    with pytest.raises(error, match=f"^{argument}:"):
        importance_gradient(**arguments)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_items", 1), ("groups", np.zeros(3, int)), ("start", 1.5), ("learning_rate", -1.0), ("steps", -1)],
)
def test_wrong_arguments_of_the_ascent_are_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}:"):
        learn_importance(GOOD["ids"], GOOD["utilities"], k=1, **{argument: value})
