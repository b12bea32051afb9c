"""Scorers that fail, refuse, answer nonsense or are slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from simtile.cur import (
    BatchRejectedError,
    CallableScorer,
    CallStats,
    CrossEncoderIndex,
    Limits,
    ScoreCountError,
    Scorer,
    ScorerError,
    TransientScorerError,
)
from simtile.cur.calls import score_pairs
from simtile.cur.scorers import Pair

QUICK = Limits(batch_size=8, retries=2, backoff=0.001)
PAIRS = [(0, i) for i in range(50)]
EXACT = np.arange(50.0)


def run(fn: object, limits: Limits = QUICK, **options: object) -> tuple[np.ndarray, CallStats]:
    stats = CallStats()
    scorer = CallableScorer(fn, version="fake", limits=limits)  # type: ignore[arg-type]
    return score_pairs(scorer, PAIRS, stats=stats, **options), stats  # type: ignore[arg-type]


def right(pairs: Sequence[Pair]) -> list[float]:
    return [float(item) for _, item in pairs]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_scores_come_in_order_and_in_batches(concurrency: int) -> None:
    sizes = []

    def counted(pairs: Sequence[Pair]) -> list[float]:
        sizes.append(len(pairs))
        return right(pairs)

    scores, stats = run(counted, Limits(batch_size=8, concurrency=concurrency))
    np.testing.assert_array_equal(scores, EXACT)
    assert sorted(sizes) == [2, 8, 8, 8, 8, 8, 8]
    assert (stats.scored, stats.failed, stats.calls) == (50, 0, 7)


def test_a_call_that_fails_now_and_then_is_tried_again(rng: np.random.Generator) -> None:
    def flaky(pairs: Sequence[Pair]) -> list[float]:
        if rng.random() < 0.3:
            raise OSError("connection reset")
        return right(pairs)

    scores, stats = run(flaky)
    np.testing.assert_array_equal(scores, EXACT)
    assert stats.retries > 0 and stats.failed == 0


def test_a_bad_pair_fails_alone() -> None:
    def picky(pairs: Sequence[Pair]) -> list[float]:
        if any(item == 13 for _, item in pairs):
            raise ValueError("cannot tokenize")
        return right(pairs)

    scores, stats = run(picky)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [13]
    assert stats.failed == 1 and "cannot tokenize" in stats.last_error


def test_a_score_that_is_not_finite_is_a_counted_failure() -> None:
    scores, stats = run(lambda pairs: [np.nan if item == 3 else np.inf if item == 4 else item for _, item in pairs])
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 4]
    assert (stats.not_finite, stats.failed, stats.scored) == (2, 0, 48)


def test_a_wrong_number_of_scores_is_an_error() -> None:
    with pytest.raises(ScoreCountError, match="8 scores for 8 pairs"):
        run(lambda pairs: right(pairs)[:-1])


def test_a_scorer_that_never_answers_is_an_error() -> None:
    def broken(pairs: Sequence[Pair]) -> list[float]:
        raise KeyError("weights")

    with pytest.raises(ScorerError, match=r"none of 50 pairs.*KeyError"):
        run(broken, Limits(retries=0, backoff=0.0))


def test_an_error_that_is_final_is_not_tried_again() -> None:
    calls = []

    def denied(pairs: Sequence[Pair]) -> list[float]:
        calls.append(len(pairs))
        raise ScorerError("HTTP 401")

    with pytest.raises(ScorerError, match="401"):
        run(denied)
    assert len(calls) == 1


def test_a_cap_on_the_batch_is_learned() -> None:
    sizes = []

    def capped(pairs: Sequence[Pair]) -> list[float]:
        sizes.append(len(pairs))
        if len(pairs) > 5:
            raise BatchRejectedError("HTTP 413")
        return right(pairs)

    scores, stats = run(capped, Limits(batch_size=20))
    np.testing.assert_array_equal(scores, EXACT)
    assert sizes == [20, 10, 5, 5, 10, 5, 5] + [5] * 6
    assert stats.splits == 3


def test_a_rejected_pair_does_not_lower_the_cap() -> None:
    sizes = []

    def picky(pairs: Sequence[Pair]) -> list[float]:
        sizes.append(len(pairs))
        if any(item == 1 for _, item in pairs):
            raise BatchRejectedError("HTTP 422")
        return right(pairs)

    _, stats = run(picky, Limits(batch_size=10))
    assert stats.failed == 1 and sizes[-1] == 10


def test_retry_after_is_honoured() -> None:
    times: list[float] = []

    def busy(pairs: Sequence[Pair]) -> list[float]:
        times.append(time.monotonic())
        if len(times) == 1:
            raise TransientScorerError("HTTP 429", retry_after=0.2)
        return right(pairs)

    run(busy)
    assert times[1] - times[0] >= 0.2


def test_no_call_begins_after_the_deadline() -> None:
    begun = []

    def slow(pairs: Sequence[Pair]) -> list[float]:
        begun.append(time.monotonic())
        time.sleep(0.05)
        return right(pairs)

    deadline = time.monotonic() + 0.12
    scores, stats = run(slow, deadline=deadline)
    assert max(begun) < deadline
    assert 0 < stats.scored < 50 and stats.scored + stats.skipped == 50
    assert np.isfinite(scores).sum() == stats.scored


def test_calls_keep_to_the_rate_and_to_the_concurrency() -> None:
    lock, running, most, begun = threading.Lock(), [0], [0], []

    def watched(pairs: Sequence[Pair]) -> list[float]:
        with lock:
            begun.append(time.monotonic())
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return right(pairs)

    started = time.monotonic()
    run(watched, Limits(batch_size=8, concurrency=3, calls_per_second=100.0))
    assert most[0] <= 3
    # Seven turns, a hundredth of a second apart, the first after `started`. A busy machine may notice any call late,
    # the first one as well, so that the time between two calls says nothing.
    assert len(begun) == 7
    assert max(begun) - started >= 0.06


def test_an_error_in_one_thread_stops_the_others() -> None:
    calls = []

    def fails_late(pairs: Sequence[Pair]) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            raise ScorerError("gone")
        time.sleep(0.01)
        return right(pairs)

    with pytest.raises(ScorerError, match="gone"):
        run(fails_late, Limits(batch_size=1, concurrency=2))
    assert len(calls) <= 6


def test_pairs_of_one_query_share_a_call_and_no_others() -> None:
    seen = []

    class OneQuery(Scorer):
        version, limits, one_query_per_call = "one", Limits(batch_size=4), True

        def score(self, pairs: Sequence[Pair]) -> list[float]:
            seen.append([query for query, _ in pairs])
            return right(pairs)

    a, b = "a", "b"
    score_pairs(OneQuery(), [(a, 1), (a, 2), (b, 3), (b, 4), (b, 5), (b, 6), (b, 7)])
    assert seen == [["a", "a"], ["b"] * 4, ["b"]]


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"concurrency": 0}, {"retries": -1}, {"calls_per_second": 0.0}, {"backoff": -1.0}]
)
def test_limits_name_what_is_wrong(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Limits(**options)  # type: ignore[arg-type]


def test_one_failed_call_in_five_changes_recall_by_less_than_two_points(rng: np.random.Generator) -> None:
    scores = rng.normal(size=(80, 20)) @ rng.normal(size=(20, 400)) + 0.5 * rng.normal(size=(80, 400))
    unlucky = np.random.default_rng(1)

    def flaky(pairs: Sequence[Pair]) -> list[float]:
        if unlucky.random() < 0.2:
            raise TransientScorerError("HTTP 503")
        return [scores[q, i] for q, i in pairs]

    limits = Limits(batch_size=16, retries=3, backoff=0.0)
    recalls = []
    for fn in (lambda pairs: [scores[q, i] for q, i in pairs], flaky):
        scorer = CallableScorer(fn, version="x", limits=limits)
        index = CrossEncoderIndex.build(range(400), scorer, queries=range(40), dense=True)
        hits = index.search(range(40, 80), 10, budget=60)
        exact = np.argsort(-scores[40:], axis=1)[:, :10].tolist()
        shares = [
            len({hit["corpus_id"] for hit in found} & set(row)) / 10 for found, row in zip(hits, exact, strict=True)
        ]
        recalls.append(np.mean(shares))
    assert abs(recalls[0] - recalls[1]) < 0.02
    assert index.stats.retries > 0
