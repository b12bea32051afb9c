"""Hubness and retrieval figures: against scipy and hand-made cases, whole or in parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from simtile.hubness import OccurrenceCounter, hubness_report, ranks, ranks_in_lists, retrieval_report


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 60), m=st.integers(1, 40))
def test_figures_are_those_of_scipy_and_of_the_definitions(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, min(n, 6) + 1))
    ids = np.stack([rng.permutation(n)[:k] for _ in range(m)])
    found = hubness_report(ids, n)
    counts = np.bincount(ids.ravel(), minlength=n)
    np.testing.assert_array_equal(found.k_occurrence, counts)
    mean, sd = counts.mean(), counts.std(ddof=1)
    if sd > 0:
        assert found.skewness == pytest.approx(stats.skew(counts))
        cut = stats.truncnorm(-mean / sd, np.inf)
        assert found.truncated_skewness == pytest.approx(cut.moment(3), rel=1e-6)
    pairs = np.abs(counts[:, None] - counts).sum()
    assert found.gini == pytest.approx(pairs / (2 * n * n * mean))
    assert found.robin_hood == pytest.approx(np.maximum(counts - mean, 0).sum() / counts.sum())
    assert found.atkinson == pytest.approx(1 - (np.sqrt(counts).mean() ** 2) / mean)
    assert found.hub_occurrence == pytest.approx(counts[counts > 2 * k].sum() / (m * k))
    assert found.anti_hub_occurrence == pytest.approx((counts == 0).mean())
    assert found.groupie_ratio == pytest.approx((ids == counts.argmax()).any(axis=1).mean())


def test_parts_in_any_order_give_the_same_report(rng: np.random.Generator) -> None:
    ids = rng.integers(0, 30, (50, 4))
    counter = OccurrenceCounter(30)
    for part in (ids[40:], ids[:13], ids[13:40]):
        counter.update(part)
    assert counter.report().figures() == hubness_report(ids, 30).figures()


def test_even_lists_have_no_hubness_and_empty_ones_are_defined() -> None:
    even = hubness_report(np.arange(12).reshape(6, 2), 12)
    assert (even.skewness, even.gini, even.robin_hood, even.anti_hub_occurrence) == (0, 0, 0, 0)
    assert even.atkinson == pytest.approx(0)
    none = hubness_report(np.empty((0, 3), np.int64), 5)
    assert none.anti_hub_occurrence == 1
    assert none.gini == 0
    assert hubness_report(np.array([[0, -1], [-1, -1]]), 2).k_occurrence.tolist() == [1, 0]


def test_bad_lists_are_named() -> None:
    for ids, message in (
        (np.zeros((2, 2)), "integers"),
        (np.array([1, 2]), r"\(M, k\)"),
        (np.array([[0, 9]]), "-1 or 0..2"),
    ):
        with pytest.raises(ValueError, match=message):
            hubness_report(ids, 3)
    counter = OccurrenceCounter(3)
    counter.update(np.array([[0, 1]]))
    with pytest.raises(ValueError, match="lists of 2 as before"):
        counter.update(np.array([[0]]))


def test_ranks_and_ties() -> None:
    ids = np.array([[4, 2, 9], [1, 0, 3]])
    np.testing.assert_array_equal(ranks_in_lists(ids, np.array([9, 7])), [3, np.inf])
    above, equal = np.array([2, 0]), np.array([2, 0])
    for ties, first in (("middle", 4.0), ("best", 3.0), ("worst", 5.0)):
        assert ranks(above, equal, ties).tolist() == [first, 1.0]  # type: ignore[arg-type]
    report = retrieval_report(np.array([1, 3, np.inf, 20]), ks=(1, 5))
    assert report.recall_at == {1: 0.25, 5: 0.5}
    assert report.mrr == pytest.approx((1 + 1 / 3 + 1 / 20) / 4)
    assert report.median_rank == 11.5
    for bad in ([], [0.5], [[1.0]]):
        with pytest.raises(ValueError, match="ranks"):
            retrieval_report(bad)
    with pytest.raises(ValueError, match="ties"):
        ranks(1, 0, "random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ids, ground_truth"):
        ranks_in_lists(ids, np.array([1]))
