"""Galleries: recall by counting, chance by enumeration, and what says nothing is exactly at chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from simtile.evaluation.galleries import gallery_recall, gallery_scores


def drawn(seed: int, galleries: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integer scores with ties, offsets, relevance with at least one a gallery."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, galleries)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    relevant = rng.random(indptr[-1]) < 0.3
    relevant[indptr[:-1] + rng.integers(0, sizes)] = True
    return rng.integers(0, 3, indptr[-1]).astype(float), indptr, relevant


def by_enumeration(scores: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """Mean over all orders of the items that sort the scores."""
    hits = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda i: -scores[i])  # stable: ties in the order of the permutation
        hits.append(relevant[ranked[:k]].any())
    return float(np.mean(hits))


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6))
def test_ties_count_as_random_orders_do_and_chance_is_all_ties(seed, k):
    scores, indptr, relevant = drawn(seed)
    report = gallery_recall(scores, indptr, relevant, (k,))
    parts = [slice(a, b) for a, b in itertools.pairwise(indptr.tolist())]
    want = np.mean([by_enumeration(scores[p], relevant[p], k) for p in parts])
    assert report.recall_at[k] == pytest.approx(want, abs=1e-12)
    nothing = gallery_recall(np.zeros_like(scores), indptr, relevant, (k,))
    assert nothing.recall_at == nothing.chance_at == report.chance_at


def test_one_relevant_item_of_n_has_chance_k_over_n():
    indptr = np.array([0, 10, 25])
    relevant = np.isin(np.arange(25), [3, 12])
    chance = gallery_recall(np.arange(25.0), indptr, relevant).chance_at
    assert chance[1] == pytest.approx((1 / 10 + 1 / 15) / 2)
    assert chance[3] == pytest.approx((3 / 10 + 3 / 15) / 2)


def test_scores_are_cosines_with_the_own_gallery(rng):
    queries, items = rng.normal(size=(2, 4)), rng.normal(size=(5, 4))
    got = gallery_scores(queries, items, np.array([0, 2, 5]))
    own = queries[[0, 0, 1, 1, 1]]
    want = (own * items).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(items, axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"scores": np.array([np.nan, 1.0])}, "scores: numbers"), ({"indptr": np.array([0, 0, 2])}, "no list empty"),
     ({"relevant": np.array([True])}, "relevant: shape"), ({"relevant": np.array([True, False])}, "none in gallery 1"),
     ({"ks": (0,)}, "ks: at least 1")],
)  # fmt: skip
def test_wrong_arguments_are_named(change, message):
    given = {"scores": np.ones(2), "indptr": np.array([0, 1, 2]), "relevant": np.array([True, True]), "ks": (1,)}
    with pytest.raises(ValueError, match=message):
        gallery_recall(**{**given, **change})
    with pytest.raises(ValueError, match="indptr: 3 offsets"):
        gallery_scores(np.eye(2), np.eye(2), np.array([0, 2]))
