"""Blocks shared out by torchrun's process group: both ranks get the bits that one process gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distributed_cases import start
from simtile.hubness import HubnessReducer, _search, _summary
from simtile.hubness.executors import TorchrunExecutor

METHODS = ("inverted_softmax", "csls", "dynamic_inverted_softmax")


def search(executor: TorchrunExecutor | None) -> dict[str, NDArray[np.float32]]:
    """Scores of each method, from blocks small enough that there are several."""
    _summary.BANK_BLOCK, _search.QUERY_BLOCK = 40, 16
    rng = np.random.default_rng(1)
    gallery, bank, queries = (rng.standard_normal((n, 12), dtype=np.float32) for n in (120, 100, 50))
    found = {}
    for method in METHODS:
        reducer = HubnessReducer(method, executor=executor, num_threads=1)  # type: ignore[arg-type]
        found[method] = reducer.fit(gallery, query_bank=bank).search(queries, 5)[0]
    return found


def on_rank(rank: int, W: int, folder: Path) -> None:
    np.savez(folder / f"{rank}.npz", **search(TorchrunExecutor()))


def test_two_ranks_equal_one_process(tmp_path: Path, monkeypatch) -> None:
    start(on_rank, 2, tmp_path)
    monkeypatch.setattr(_summary, "BANK_BLOCK", 40)
    monkeypatch.setattr(_search, "QUERY_BLOCK", 16)
    one = search(None)
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for method in METHODS:
                np.testing.assert_array_equal(found[method], one[method])
