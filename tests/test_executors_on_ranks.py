"""Blocks shared out by torchrun's process group: both ranks get the bits that one process gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import faulty
import torchrun_job
from distributed_cases import start
from simtile.cur import ScoreJournal
from simtile.cur.blocks import score_blocks
from simtile.executors import TorchrunExecutor
from simtile.hubness import HubnessReducer, _search, _summary
from simtile.search import search_blocks

METHODS = ("inverted_softmax", "csls", "dynamic_inverted_softmax")


def search(executor: TorchrunExecutor | None) -> dict[str, NDArray[np.float32]]:
    """Scores of each method, from blocks small enough that there are several."""
    _summary.BANK_BLOCK, _search.QUERY_BLOCK = 40, 16
    rng = np.random.default_rng(1)
    gallery, bank, queries = (rng.standard_normal((n, 12), dtype=np.float32) for n in (120, 100, 50))
    found = {}
    for method in METHODS:
        reducer = HubnessReducer(method, executor=executor, num_threads=1)
        found[method] = reducer.fit(gallery, query_bank=bank).search(queries, 5)[0]
    found["search_blocks"] = search_blocks(gallery, queries, 5, block_rows=30, num_threads=1, executor=executor)[0]
    return found


def score_what_one_rank_at_least_lacks(rank: int) -> tuple[int, NDArray[np.float64]]:
    """Ranks that know 20 of 40 scores each, 30 together: the number that is bought, and what a rank has then."""
    with ScoreJournal(None, version="v") as journal:
        query, items = journal.query_numbers(["a"]), journal.item_numbers(torchrun_job.ITEMS)
        own = np.arange(10 * rank, 10 * rank + 20)
        journal.append(np.repeat(query, 20), items[own], -own.astype(np.float64))
        arguments = (["a"], torchrun_job.ITEMS, torchrun_job.make_scorer, journal)
        bought = score_blocks(*arguments, executor=TorchrunExecutor(), block_size=3).scored
        return bought, journal.known(int(query[0]), items)


def on_rank(rank: int, W: int, folder: Path) -> None:
    with pytest.raises(KeyError, match="three"):  # on all ranks, whoever has block 3
        list(TorchrunExecutor().stream(faulty.refuses, [(folder, n) for n in range(5)]))
    bought, scores = score_what_one_rank_at_least_lacks(rank)
    np.savez(folder / f"{rank}.npz", bought=bought, scores=scores, **search(TorchrunExecutor()))


def test_two_ranks_equal_one_process(tmp_path: Path, monkeypatch) -> None:
    start(on_rank, 2, tmp_path)
    monkeypatch.setattr(_summary, "BANK_BLOCK", 40)
    monkeypatch.setattr(_search, "QUERY_BLOCK", 16)
    one = search(None)
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for method in (*METHODS, "search_blocks"):
                np.testing.assert_array_equal(found[method], one[method])
            assert found["bought"] == 10
            exact = torchrun_job.score([("a", item) for item in torchrun_job.ITEMS])
            np.testing.assert_array_equal(found["scores"], [*-np.arange(30.0), *exact[30:]])


def test_torchrun_begins_again_when_a_rank_is_killed(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2", "--standalone"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    # torch 2.13 would give the second attempt the first one's addresses.
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    subprocess.run([*command, str(tests / "torchrun_job.py"), str(tmp_path)], check=True, env=environment, timeout=300)
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    scores, ids = search_blocks(vectors, vectors[:9], 4, block_rows=20)
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            np.testing.assert_array_equal(found["scores"], scores)
            np.testing.assert_array_equal(found["ids"], ids)
        with ScoreJournal.read(tmp_path / f"{rank}.journal", version="v") as journal:
            items = journal.item_numbers(torchrun_job.ITEMS)
            for query in torchrun_job.QUERIES:
                exact = torchrun_job.score([(query, item) for item in torchrun_job.ITEMS])
                np.testing.assert_array_equal(journal.known(int(journal.query_numbers([query])[0]), items), exact)
