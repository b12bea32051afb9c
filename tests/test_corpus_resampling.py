"""Resampled queries, and batches without two items of one label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from torch.utils.data import DataLoader

from simtile.corpus import DistinctLabelBatches, kmeans, label_overlap, resample_test, resample_train


def cosines(a, b):
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return a @ b.T


def test_near_training_queries_interpolate_and_others_extrapolate(rng):
    train, test = rng.standard_normal((400, 8)), rng.standard_normal((12, 8))
    sets = resample_train(train, test, top_k=5, excluded=9, seed=1)
    order = np.argsort(-cosines(test, train), axis=1)
    np.testing.assert_array_equal(sets.interpolation, np.unique(order[:, :5]))
    assert len(sets.extrapolation) == len(sets.interpolation)
    assert not set(sets.extrapolation) & set(order[:, :9].ravel())
    assert (np.diff(sets.extrapolation) > 0).all()
    again = resample_train(train, test, top_k=5, excluded=9, seed=1)
    np.testing.assert_array_equal(again.extrapolation, sets.extrapolation)
    other = resample_train(train, test, top_k=5, excluded=9, seed=2)
    assert not np.array_equal(other.extrapolation, sets.extrapolation)


def test_every_bucket_is_left_out_once(rng):
    train, test = rng.standard_normal((90, 4)), rng.standard_normal((30, 4))
    folds = resample_test(train, test, seed=2)
    labels = kmeans(np.concatenate([train, test]), 5, metric="cosine", seed=2).labels
    assert len(folds) == 5
    for bucket, fold in enumerate(folds):
        np.testing.assert_array_equal(fold.train, np.flatnonzero(labels[:90] != bucket))
        np.testing.assert_array_equal(fold.extrapolation, np.flatnonzero(labels[90:] == bucket))
        assert sorted([*fold.interpolation, *fold.extrapolation]) == list(range(30))
    assert sorted(i for fold in folds for i in fold.extrapolation) == list(range(30))


def test_one_common_item_is_an_overlap():
    assert label_overlap([{1, 2}, {3}], [[2], [4], [], [1, 3]]) == 0.5
    assert label_overlap([], [[1]]) == 0.0


@given(
    labels=st.lists(st.integers(-3, 12), min_size=0, max_size=120),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_every_item_is_used_and_no_label_twice(labels, batch_size, seed):
    labels = np.array(labels, dtype=np.int64)
    batches = DistinctLabelBatches(labels, batch_size, seed=seed)
    found = list(batches)
    assert sorted(i for batch in found for i in batch) == list(range(len(labels)))
    assert all(len(set(labels[batch])) == len(batch) <= batch_size for batch in found)
    fewest = max(-(-len(labels) // batch_size), np.unique(labels, return_counts=True)[1].max(initial=0))
    assert len(found) == len(batches) == fewest
    assert not found or max(map(len, found)) - min(map(len, found)) <= 1


def test_seed_and_pass_decide_the_batches(rng):
    labels = rng.integers(0, 30, 500)
    one, two = DistinctLabelBatches(labels, 16, seed=4), DistinctLabelBatches(labels, 16, seed=4)
    first, second = list(one), list(one)
    assert list(two) == first != second
    two.epoch = 1
    assert list(two) == second
    assert list(DistinctLabelBatches(labels, 16, seed=5)) != first


def test_a_data_loader_takes_them():
    labels = np.arange(20) % 7
    loaded = [b.tolist() for b in DataLoader(list(range(20)), batch_sampler=DistinctLabelBatches(labels, 5))]
    assert sorted(i for batch in loaded for i in batch) == list(range(20))


X = np.eye(3)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("top_k", lambda: resample_train(X, X, top_k=2)),
        ("top_k", lambda: resample_train(X, X, top_k=0)),
        ("excluded", lambda: resample_train(X, X, top_k=2, excluded=1)),
        ("test", lambda: resample_train(X, X[:, :2], top_k=1)),
        ("test", lambda: resample_test(X, X[:, :2])),
        ("buckets", lambda: resample_test(X, X, buckets=1)),
        ("buckets", lambda: resample_test(X, X, buckets=7)),
        ("train", lambda: resample_test(X * 0, X)),
        ("test", lambda: label_overlap([[1]], [])),
        ("batch_size", lambda: DistinctLabelBatches(np.arange(3), 0)),
        ("seed", lambda: DistinctLabelBatches(np.arange(3), 2, seed=-1)),
    ],
)
def test_wrong_arguments_are_named(argument, call):
    with pytest.raises(ValueError, match=f"^{argument}:"):
        call()
