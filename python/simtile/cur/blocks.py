"""Many scores by many workers, each holding the model, wherever an executor has them.

A block is one query and many items. Blocks are independent; the parent journals each as it returns, so that a run
that is stopped loses the blocks in flight and goes on with the rest. The scores do not depend on the blocks or the
workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.cur.calls import CallStats, score_pairs
from simtile.cur.journal import ScoreJournal
from simtile.cur.scorers import Scorer
from simtile.executors import Executor, ProcessExecutor
from simtile.executors._base import as_executor

__all__ = ["score_blocks"]

MakeScorer: TypeAlias = Callable[[], Scorer]


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
    executor: Executor | None = None,
    block_size: int = 4096,
    on_block: Callable[[int], None] | None = None,
) -> CallStats:
    """Score every query with every item that the journal does not know, in blocks over workers.

    Parameters
    ----------
    queries, items : sequences of Q and N objects that can be pickled
    make_scorer : callable () -> Scorer      called once in each worker, where the model is to live; picklable
    store : ScoreJournal      with the scorers' version; pass its file to `CrossEncoderIndex.build` as ``store``
    executor : Executor, optional      where the workers are (:mod:`simtile.executors`); None: two processes. Ranks of
        torchrun all get all scores: give each a journal of its own; what one of them knows the others need not buy
    block_size : int      pairs a block
    on_block : callable (pairs), optional      told of every finished block

    Returns
    -------
    CallStats      of all workers

    Raises
    ------
    TypeError, ValueError      naming the argument
    ScorerError      what a worker's scorer raised; the blocks that were finished stay in the journal
    WorkerDiedError      workers that were killed with the same block, time and again; likewise
    """
    if block_size < 1:
        raise ValueError(f"block_size: at least 1, got {block_size}")
    query_numbers, item_numbers = store.query_numbers(queries), store.item_numbers(items)
    total = CallStats()
    taken: dict[int, _Block] = {}

    workers = as_executor(executor, ProcessExecutor)

    def missing(row: int) -> NDArray[np.int64]:
        """Columns without a score in any journal: ranks that were killed may know more or less than the others."""
        query, own = query_numbers[row], store.known(int(query_numbers[row]), item_numbers)
        known = functools.reduce(lambda a, b: np.where(np.isnan(a), b, a), workers.everywhere(own))
        learnt = np.flatnonzero(np.isnan(own) & ~np.isnan(known))
        store.append(np.full(len(learnt), query), item_numbers[learnt], known[learnt])
        return np.flatnonzero(np.isnan(known))

    def pairs() -> Iterator[tuple[list[tuple[Any, Any]]]]:
        for number, block in enumerate(_missing_blocks(queries, items, missing, block_size)):
            taken[number] = block
            yield (block.pairs,)

    for number, (scores, stats) in workers.stream(_score, pairs(), setup=make_scorer):
        block = taken.pop(number)
        store.append(query_numbers[block.rows], item_numbers[block.columns], scores)
        total.add(stats)
        if on_block is not None:
            on_block(len(scores))
    return total


def _score(scorer: Scorer, pairs: list[tuple[Any, Any]]) -> tuple[NDArray[np.float64], CallStats]:
    stats = CallStats()
    return score_pairs(scorer, pairs, stats=stats), stats


def _missing_blocks(
    queries: Sequence[Any],
    items: Sequence[Any],
    missing: Callable[[int], NDArray[np.int64]],
    size: int,
) -> Iterator[_Block]:
    """Blocks of what is missing, row after row; made when a worker is free, never all at once."""
    for row, query in enumerate(queries):
        wanted = missing(row)
        for start in range(0, len(wanted), size):
            columns = wanted[start : start + size]
            yield _Block(np.full(len(columns), row), columns, [(query, items[i]) for i in columns])
