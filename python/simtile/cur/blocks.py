"""Many scores by many workers, each holding the model: processes of this machine, or Ray actors of a cluster.

A block is one query and many items. Blocks are independent; the parent journals each as it returns, so that a run
that is stopped loses the blocks in flight and goes on with the rest. The scores do not depend on the blocks or the
workers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.cur.calls import CallStats, score_pairs
from simtile.cur.journal import ScoreJournal
from simtile.cur.scorers import Scorer

__all__ = ["score_blocks"]

MakeScorer: TypeAlias = Callable[[], Scorer]
Executor: TypeAlias = Literal["processes", "ray"]


@dataclass(frozen=True)
class _Block:
    """Pairs that are wanted: rows and columns (B,) of the full matrix, and the texts behind them."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    pairs: list[tuple[Any, Any]]


def score_blocks(
    queries: Sequence[Any],
    items: Sequence[Any],
    make_scorer: MakeScorer,
    store: ScoreJournal,
    *,
    workers: int = 2,
    executor: Executor = "processes",
    block_size: int = 4096,
    on_block: Callable[[int], None] | None = None,
) -> CallStats:
    """Score every query with every item that the journal does not know, in blocks over workers.

    Parameters
    ----------
    queries, items : sequences of Q and N objects that can be pickled
    make_scorer : callable () -> Scorer      called once in each worker, where the model is to live; picklable
    store : ScoreJournal      with the scorers' version; pass its file to `CrossEncoderIndex.build` as ``store``
    workers : int
    executor : {"processes", "ray"}      Ray must be installed; its address is that of the current Ray session
    block_size : int      pairs a block
    on_block : callable (pairs), optional      told of every finished block

    Returns
    -------
    CallStats      of all workers

    Raises
    ------
    ValueError      naming the argument
    ScorerError      what a worker's scorer raised; the blocks that were finished stay in the journal
    """
    if workers < 1 or block_size < 1:
        raise ValueError(f"workers, block_size: at least 1, got {workers} and {block_size}")
    run = {"processes": _in_processes, "ray": _in_ray}.get(executor)
    if run is None:
        raise ValueError(f'executor: "processes" or "ray", got {executor!r}')
    query_numbers, item_numbers = store.query_numbers(queries), store.item_numbers(items)
    total = CallStats()
    blocks = _missing_blocks(queries, items, query_numbers, item_numbers, store, block_size)
    for block, scores, stats in run(blocks, make_scorer, workers):
        store.append(query_numbers[block.rows], item_numbers[block.columns], scores)
        total.add(stats)
        if on_block is not None:
            on_block(len(scores))
    return total


def _missing_blocks(
    queries: Sequence[Any],
    items: Sequence[Any],
    query_numbers: NDArray[np.int64],
    item_numbers: NDArray[np.int64],
    store: ScoreJournal,
    size: int,
) -> Iterator[_Block]:
    """Blocks of what the journal lacks, row after row; made when a worker is free, never all at once."""
    for row, query in enumerate(queries):
        missing = np.flatnonzero(np.isnan(store.known(int(query_numbers[row]), item_numbers)))
        for start in range(0, len(missing), size):
            columns = missing[start : start + size]
            yield _Block(np.full(len(columns), row), columns, [(query, items[i]) for i in columns])


Results: TypeAlias = Iterator[tuple[_Block, NDArray[np.float64], CallStats]]


class _Worker:
    """A scorer, where it lives."""

    def __init__(self, make_scorer: MakeScorer) -> None:
        self._scorer = make_scorer()

    def score(self, pairs: list[tuple[Any, Any]]) -> tuple[NDArray[np.float64], CallStats]:
        stats = CallStats()
        return score_pairs(self._scorer, pairs, stats=stats), stats


_worker: _Worker | None = None
"""Of a worker process, made once."""


def _start_worker(make_scorer: MakeScorer) -> None:
    global _worker  # noqa: PLW0603 — a process pool has no other place for a model that lives as long as the process
    _worker = _Worker(make_scorer)


def _score_here(pairs: list[tuple[Any, Any]]) -> tuple[NDArray[np.float64], CallStats]:
    assert _worker is not None
    return _worker.score(pairs)


def _in_processes(blocks: Iterator[_Block], make_scorer: MakeScorer, workers: int) -> Results:
    # Spawned, not forked: the parent may already run threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(make_scorer,))
    running: dict[Future[tuple[NDArray[np.float64], CallStats]], _Block] = {}
    try:
        for block in blocks:
            running[pool.submit(_score_here, block.pairs)] = block
            if len(running) == 2 * workers:  # one in work and one waiting for each
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), *future.result()
        for future, block in running.items():
            yield block, *future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_ray(blocks: Iterator[_Block], make_scorer: MakeScorer, workers: int) -> Results:
    import ray

    actor = ray.remote(_Worker)
    idle: list[Any] = [actor.remote(make_scorer) for _ in range(workers)]
    running: dict[Any, tuple[Any, _Block]] = {}

    def finished() -> Results:
        for answer in ray.wait(list(running))[0]:
            worker, block = running.pop(answer)
            idle.append(worker)
            yield block, *ray.get(answer)

    for block in blocks:
        if not idle:
            yield from finished()
        worker = idle.pop()
        running[worker.score.remote(block.pairs)] = (worker, block)
    while running:
        yield from finished()
