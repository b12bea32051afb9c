"""Executors: the bits of one process, whoever computes the blocks, and whoever of them is killed.

tests/fuzz has the same tests on Ray.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faulty
from simtile.cur import CallableScorer, ScoreJournal, Scorer
from simtile.cur.blocks import score_blocks
from simtile.executors import Executor, InProcess, ProcessExecutor, RayExecutor, TorchrunExecutor, WorkerDiedError
from simtile.hubness import HubnessReducer, _search, _summary
from simtile.search import ExactIndex, search_blocks


@pytest.fixture(scope="module")
def executor() -> Executor:
    return ProcessExecutor(2, retries=1)


def test_results_come_in_the_order_of_the_blocks(executor: Executor) -> None:
    blocks = [(number,) for number in range(7)]
    assert list(executor.in_order(faulty.square, blocks)) == [n * n for n in range(7)]
    assert sorted(executor.stream(faulty.square, blocks)) == [(n, n * n) for n in range(7)]


def test_a_block_whose_worker_is_killed_is_computed_again(executor: Executor, tmp_path: Path) -> None:
    blocks = [(number,) for number in range(8)]
    work = functools.partial(faulty.dies, tmp_path, 1, 5)
    assert list(executor.in_order(work, blocks)) == [n * n for n in range(8)]
    assert (tmp_path / "5").stat().st_size == 2


def test_a_block_that_always_kills_its_worker_ends_the_job(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(WorkerDiedError, match="block 0: 2 workers died"):
        list(executor.stream(functools.partial(faulty.dies, tmp_path, 99, 0), [(0,)]))
    assert (tmp_path / "0").stat().st_size == 2


def test_an_error_arrives_as_it_was_raised_and_is_not_tried_again(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="three"):
        list(executor.in_order(functools.partial(faulty.refuses, tmp_path), [(n,) for n in range(5)]))
    assert (tmp_path / "3").stat().st_size == 1
    with pytest.raises(FileNotFoundError, match="no model here"):
        list(executor.stream(faulty.with_first, [(0,)], setup=faulty.no_setup))


def test_blocks_are_taken_as_workers_become_free(executor: Executor) -> None:
    taken = itertools.count()
    results = executor.in_order(faulty.square, ((n,) for n in taken))
    assert list(itertools.islice(results, 3)) == [0, 1, 4]
    results.close()  # type: ignore[attr-defined]
    assert next(taken) <= 3 + 8 * 2


ITEMS = [f"item {i}" for i in range(40)]


def lengths(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [float(len(query) * int(item.split()[1]) % 61) for query, item in pairs]


def make_scorer() -> Scorer:
    return CallableScorer(lengths, version="v")


def found(executor: Executor, folder: Path) -> list[Any]:
    """All-pairs search in a mapped file, statistics of a bank and a corrected search, a matrix of scores."""
    rng = np.random.default_rng(0)
    vectors, bank, queries = (rng.standard_normal((n, 12), dtype=np.float32) for n in (90, 70, 50))
    np.save(folder / "vectors.npy", vectors)
    mapped = np.load(folder / "vectors.npy", mmap_mode="r")
    results: list[Any] = [*search_blocks(mapped, queries, 5, block_rows=20, num_threads=1, executor=executor)]
    results += [*search_blocks(vectors[3:], queries, 5, metric="l2", block_rows=33, num_threads=1, executor=executor)]
    reducer = HubnessReducer("csls", num_threads=1, executor=executor).fit(vectors, query_bank=bank)
    results += [reducer.item_bias_, *reducer.search(queries, 5)]
    with ScoreJournal(None, version="v") as journal:
        score_blocks(["a", "bb"], ITEMS, make_scorer, journal, executor=executor, block_size=15)
        numbers, items = journal.query_numbers(["a", "bb"]), journal.item_numbers(ITEMS)
        results += [journal.known(int(number), items) for number in numbers]
    return results


def test_killed_workers_change_no_bit_of_searches_statistics_and_scores(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_summary, "BANK_BLOCK", 30)
    monkeypatch.setattr(_search, "QUERY_BLOCK", 16)
    one = found(InProcess(), tmp_path)
    for a, b in zip(found(Deadly(executor, tmp_path), tmp_path), one, strict=True):
        np.testing.assert_array_equal(a, b)


class Deadly(faulty.Deadly):
    """A folder of its own for each job."""

    jobs = 0

    def stream(self, function: Any, blocks: Any, *, setup: Any = None) -> Iterator[tuple[int, Any]]:
        self.jobs += 1
        folder = self.folder / f"job {self.jobs}"
        folder.mkdir()
        return faulty.Deadly(self.executor, folder).stream(function, blocks, setup=setup)


def test_wrong_arguments_are_named() -> None:
    for wrong in ({"workers": 0}, {"retries": -1}):
        for kind in (ProcessExecutor, RayExecutor):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                kind(**wrong)
    with pytest.raises(TypeError, match="executor: an Executor"):
        search_blocks(np.eye(2), np.eye(2), 1, executor=2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="executor: an Executor"):
        HubnessReducer(executor=map).fit(np.eye(2), query_bank=np.eye(2))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="init_process_group"):
        list(TorchrunExecutor().stream(faulty.square, [(1,)]))


def test_views_of_a_mapped_file_are_searched_right(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for view, same in ((mapped[4:], vectors[4:]), (mapped[:, ::2], vectors[:, ::2]), (mapped[::-1], vectors[::-1])):
        wanted = ExactIndex(np.ascontiguousarray(same)).search(same[:3].copy(), 4)
        for ours, expected in zip(search_blocks(view, same[:3].copy(), 4, block_rows=7), wanted, strict=True):
            np.testing.assert_array_equal(ours, expected)
