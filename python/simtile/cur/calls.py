"""Calls a scorer for many pairs: batches, retries, splitting, rate and concurrency limits, a deadline.

A call that raises is tried again with exponential back-off; when that does not help, or when the scorer rejects the
batch as too large, it is halved, so that a single bad pair costs O(log batch) calls and fails alone. What failed is
counted.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from simtile.cur.errors import BatchRejectedError, ScoreCountError, ScorerError, TransientScorerError
from simtile.cur.scorers import Pair, Scorer

__all__ = ["CallStats", "score_pairs"]

OnBatch = Callable[[NDArray[np.int64], NDArray[np.float64]], None]


@dataclass
class CallStats:
    """What asking a scorer came to."""

    scored: int = 0
    """Pairs with a score bought from the scorer."""
    known: int = 0
    """Pairs whose score the journal already held."""
    failed: int = 0
    """Pairs without a score: the scorer raised, time and again, down to the single pair."""
    not_finite: int = 0
    """Pairs whose score was NaN or infinite: treated as failed, and counted here only."""
    skipped: int = 0
    """Pairs that were not asked for any more because the deadline had passed."""
    calls: int = 0
    retries: int = 0
    splits: int = 0
    seconds: float = 0.0
    """Spent waiting for the scorer."""
    last_error: str = field(default="", compare=False)

    def add(self, other: CallStats) -> None:
        """Add another run's counts to this one's."""
        for name in (f.name for f in fields(self) if f.name != "last_error"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_error = other.last_error or self.last_error


def score_pairs(
    scorer: Scorer,
    pairs: Sequence[Pair],
    *,
    deadline: float | None = None,
    stats: CallStats | None = None,
    on_batch: OnBatch | None = None,
) -> NDArray[np.float64]:
    """The scores of all pairs; NaN where there is none.

    Parameters
    ----------
    scorer : Scorer
    pairs : sequence of (query, item)      for a scorer with ``one_query_per_call``, neighbours with the same query
        object share calls
    deadline : float, optional      a `time.monotonic()` value after which no call is begun
    stats : CallStats, optional      counted into
    on_batch : callable (positions, scores), optional      called in this thread as soon as scores arrive

    Raises
    ------
    ScoreCountError      if a call returned another number of scores than pairs
    ScorerError      if the scorer raised it, or if calls were made and not one gave a score
    """
    run = _Run(scorer, pairs, deadline)
    result = np.full(len(pairs), np.nan)
    start = time.monotonic()
    try:
        for positions, scores in run.results():
            result[positions] = scores
            if on_batch is not None:
                on_batch(positions, scores)
    finally:
        run.stats.seconds = time.monotonic() - start
        if stats is not None:
            stats.add(run.stats)
    if run.stats.failed and not run.stats.scored and not run.stats.not_finite:
        raise ScorerError(f"scorer: none of {run.stats.failed} pairs was scored; last error: {run.stats.last_error}")
    return result


class _Run:
    """One call of `score_pairs`; everything that its worker threads share."""

    def __init__(self, scorer: Scorer, pairs: Sequence[Pair], deadline: float | None) -> None:
        self.scorer, self.pairs, self.limits = scorer, pairs, scorer.limits
        self.deadline = math.inf if deadline is None else deadline
        self.stats = CallStats()
        self.cap = scorer.limits.batch_size
        self._lock = threading.Lock()
        self._next_call = 0.0

    def results(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        batches = self._batches()
        if self.limits.concurrency == 1:
            for batch in batches:
                yield batch, self._attempt(batch)
            return
        with ThreadPoolExecutor(self.limits.concurrency) as pool:
            running: dict[Future[NDArray[np.float64]], NDArray[np.int64]] = {}
            try:
                for batch in batches:
                    running[pool.submit(self._attempt, batch)] = batch
                    if len(running) == self.limits.concurrency:
                        yield from _finished(running)
                while running:
                    yield from _finished(running)
            finally:
                self.deadline = -math.inf  # after an error, threads begin no further call

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Positions of consecutive pairs, as many as currently fit a call."""
        start = 0
        while start < len(self.pairs):
            stop = min(start + self.cap, len(self.pairs))
            if self.scorer.one_query_per_call:
                query = self.pairs[start][0]
                stop = next((i for i in range(start, stop) if self.pairs[i][0] is not query), stop)
            yield np.arange(start, stop)
            start = stop

    def _attempt(self, batch: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores of a batch, whatever it takes within the limits; NaN for pairs that have none."""
        delay = self.limits.backoff
        too_large = False
        for attempt in range(self.limits.retries + 1):
            if not self._wait_for_turn():
                return self._without(batch, "skipped", "")
            try:
                return self._call(batch)
            except ScoreCountError:
                raise
            except BatchRejectedError as error:
                message = str(error)
                too_large = error.lowers_cap
                break
            except TransientScorerError as error:
                message = str(error)
                pause = delay if error.retry_after is None else error.retry_after
            except ScorerError:
                raise
            except Exception as error:
                message = f"{type(error).__name__}: {error}"
                pause = delay
            if attempt < self.limits.retries:
                if time.monotonic() + pause >= self.deadline:
                    return self._without(batch, "failed", message)
                self._count(retries=1)
                time.sleep(pause)
                delay = min(2.0 * delay, self.limits.max_backoff)
        if len(batch) == 1:
            return self._without(batch, "failed", message)
        self._count(splits=1)
        half = (len(batch) + 1) // 2
        scores = np.concatenate([self._attempt(batch[:half]), self._attempt(batch[half:])])
        if too_large and np.isfinite(scores).all():  # it was the size, not a bad pair inside
            with self._lock:
                self.cap = min(self.cap, half)
        return scores

    def _call(self, batch: NDArray[np.int64]) -> NDArray[np.float64]:
        self._count(calls=1)
        scores = np.asarray(self.scorer.score([self.pairs[i] for i in batch]), dtype=np.float64)
        if scores.shape != batch.shape:
            raise ScoreCountError(f"scorer: {len(batch)} scores for {len(batch)} pairs, got shape {scores.shape}")
        finite = np.isfinite(scores)
        self._count(scored=int(finite.sum()), not_finite=int((~finite).sum()))
        return np.where(finite, scores, np.nan)

    def _without(self, batch: NDArray[np.int64], kind: str, message: str) -> NDArray[np.float64]:
        self._count(**{kind: len(batch)})
        self.stats.last_error = message or self.stats.last_error
        return np.full(len(batch), np.nan)

    def _count(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                setattr(self.stats, name, getattr(self.stats, name) + count)

    def _wait_for_turn(self) -> bool:
        """Wait as the rate demands; False if the deadline comes first."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_call)
            if turn >= self.deadline:
                return False
            if self.limits.calls_per_second is not None:
                self._next_call = turn + 1.0 / self.limits.calls_per_second
        if turn > now:
            time.sleep(turn - now)
        return True


def _finished(
    running: dict[Future[NDArray[np.float64]], NDArray[np.int64]],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()
