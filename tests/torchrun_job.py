"""What `test_executors_on_ranks` has torchrun start: rank 1 is killed in its second block of a search, and after the
first restart in its second block of scores.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import numpy as np
from torch import distributed as dist

from simtile.cur import CallableScorer, ScoreJournal, Scorer
from simtile.cur.blocks import score_blocks
from simtile.executors import TorchrunExecutor
from simtile.search import blocks

QUERIES, ITEMS = ["a", "bb", "ccc"], [f"item {i}" for i in range(40)]


def dies_on(attempt: str) -> None:
    if (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT")) == ("1", attempt):
        os.kill(os.getpid(), signal.SIGKILL)


def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
    if ("bb", "item 0") in pairs:  # block 3
        dies_on("1")
    return [1 / (len(query) + int(item.split()[1])) for query, item in pairs]


def make_scorer() -> Scorer:
    return CallableScorer(score, version="v")


if __name__ == "__main__":
    search = blocks._Search.block

    def block(self: blocks._Search, start: int, end: int) -> object:
        if start >= 60:
            dies_on("0")
        return search(self, start, end)

    blocks._Search.block = block  # type: ignore[method-assign,assignment]
    dist.init_process_group("gloo")
    folder, rank = sys.argv[1], dist.get_rank()
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    scores, ids = blocks.search_blocks(vectors, vectors[:9], 4, block_rows=20, executor=TorchrunExecutor())
    np.savez(f"{folder}/{rank}.npz", scores=scores, ids=ids)
    with ScoreJournal(f"{folder}/{rank}.journal", version="v") as journal:
        score_blocks(QUERIES, ITEMS, make_scorer, journal, executor=TorchrunExecutor(), block_size=15)
    dist.destroy_process_group()
