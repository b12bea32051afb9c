"""Buys scores and journals them: for rounds of a search, and for the rows or samples that an index is built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.cur.calls import CallStats, score_pairs
from simtile.cur.journal import ScoreJournal, content_key
from simtile.cur.learned import BuildScores
from simtile.cur.scorers import Scorer

__all__ = ["Shop"]

_PAIRS_AT_ONCE = 1 << 16
"""Pairs that are listed in memory at a time while an index is built."""


class Shop:
    """A scorer, the journal of what it has been paid for, and the items it scores.

    Attributes
    ----------
    items : list      by id
    numbers : int64 (n,)      of the items in the journal
    stats : CallStats      of everything bought here
    """

    def __init__(self, scorer: Scorer, journal: ScoreJournal, items: Sequence[Any]) -> None:
        self.scorer, self.journal = scorer, journal
        self.items = list(items)
        self.numbers = journal.item_numbers(self.items)
        self.stats = CallStats()

    def add(self, items: Sequence[Any]) -> None:
        self.items.extend(items)
        self.numbers = np.concatenate([self.numbers, self.journal.item_numbers(items)])

    def buy(
        self,
        queries: Sequence[Any],
        ids: NDArray[np.int64],
        *,
        keep: bool,
        deadline: float | None = None,
        stats: CallStats | None = None,
        progress: Any = None,
    ) -> NDArray[np.float64]:
        """Scores (M, t) of each query's items, NaN where there is none; what the journal knows is not bought again.

        Parameters
        ----------
        queries : sequence of M objects
        ids : (M, t)      padded with -1
        keep : bool      journal what is bought
        deadline : float, optional      a `time.monotonic()` value
        stats : CallStats, optional      counted into, besides ``self.stats``
        progress : object with ``update(n)``, optional      told of every score
        """
        numbers = self.journal.query_numbers(queries) if keep else np.array([self._known_query(q) for q in queries])
        scores = np.full(ids.shape, np.nan)
        for row, query, its_ids in zip(scores, numbers, ids, strict=True):
            if query >= 0:
                row[:] = np.where(its_ids >= 0, self.journal.known(query, self.numbers[its_ids]), np.nan)
        run = CallStats(known=int(np.isfinite(scores).sum()))
        rows, columns = np.nonzero(np.isnan(scores) & (ids >= 0))
        wanted = ids[rows, columns]
        if progress is not None:
            progress.update(run.known)

        def on_batch(at: NDArray[np.int64], bought: NDArray[np.float64]) -> None:
            if keep:
                self.journal.append(numbers[rows[at]], self.numbers[wanted[at]], bought)
            if progress is not None:
                progress.update(len(at))

        pairs = [(queries[row], self.items[item]) for row, item in zip(rows.tolist(), wanted.tolist(), strict=True)]
        try:
            scores[rows, columns] = score_pairs(self.scorer, pairs, deadline=deadline, stats=run, on_batch=on_batch)
        finally:
            self.stats.add(run)
            if stats is not None:
                stats.add(run)
        return scores

    def buy_all(
        self,
        queries: Sequence[Any],
        plan: Sequence[NDArray[np.int64]],
        *,
        progress: bool,
    ) -> None:
        """Buy and journal the items ``plan[q]`` of every query, some rows at a time; ``progress`` shows a bar."""
        bar = _bar(sum(map(len, plan))) if progress else None
        start = 0
        while start < len(queries):
            stop, size = start, 0
            while stop < len(queries) and (stop == start or size + len(plan[stop]) <= _PAIRS_AT_ONCE):
                size += len(plan[stop])
                stop += 1
            width = max(len(ids) for ids in plan[start:stop])
            ids = np.full((stop - start, width), -1, np.int64)
            for row, its_ids in zip(ids, plan[start:stop], strict=True):
                row[: len(its_ids)] = its_ids
            self.buy(queries[start:stop], ids, keep=True, progress=bar)
            start = stop
        if bar is not None:
            bar.close()

    def find(self, items: Sequence[Any]) -> NDArray[np.int64]:
        """Ids of items by content, -1 for those that are not in the index; of equal items the first."""
        numbers = self.journal.find_items(items)
        first = np.full(int(self.numbers.max(initial=-1)) + 2, -1, np.int64)
        first[self.numbers[::-1]] = np.arange(len(self.numbers))[::-1]
        return np.where(numbers >= 0, first[np.minimum(numbers, len(first) - 1)], -1)

    def score_now(self, query: Any, items: Sequence[Any]) -> NDArray[np.float64]:
        """Scores of items that need not be in the index; nothing is journaled."""
        run = CallStats()
        try:
            return score_pairs(self.scorer, [(query, item) for item in items], stats=run)
        finally:
            self.stats.add(run)

    def rows_of(self, queries: NDArray[np.int64]) -> BuildScores:
        """All journaled scores of numbered queries, by item id."""
        order = np.argsort(self.numbers, kind="stable")
        ordered = self.numbers[order]
        ids, values = [], []
        for query in queries:
            numbers, scores = self.journal.row(int(query))
            start, stop = np.searchsorted(ordered, numbers), np.searchsorted(ordered, numbers, side="right")
            count = stop - start  # above 1 where items are equal, 0 for items of another index on this journal
            at = np.repeat(start - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
            found, score = order[at], np.repeat(scores, count)
            by_id = np.argsort(found, kind="stable")
            ids.append(found[by_id])
            values.append(score[by_id])
        return BuildScores(ids, values, len(self.items))

    def _known_query(self, query: Any) -> int:
        return self.journal.find_query(content_key(query))


def _bar(total: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="pair", desc="scoring", dynamic_ncols=True)
