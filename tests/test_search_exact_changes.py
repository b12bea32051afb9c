"""Exact indexes that change and are kept: always what an index of the items left would answer; files that are whole."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from simtile.search import ExactIndex, GraphIndex, IndexFileError

D = 9
QUERIES = np.random.default_rng(1).standard_normal((4, D)).astype(np.float32)


def rows(n: int, seed: int) -> Any:
    # A few different values: equal scores are common, and ids decide.
    return np.random.default_rng(seed).integers(-2, 3, (n, D)).astype(np.float32)


class ExactIndexAgainstADict(RuleBasedStateMachine):
    """The model is a dict from id to vector, searched by NumPy in float64."""

    @initialize(n=st.integers(0, 6), first_pass=st.sampled_from(["i8", "f32"]), metric=st.sampled_from(["ip", "l2"]))
    def start(self, n: int, first_pass: Any, metric: Any) -> None:
        first = rows(n, 0)
        self.index = ExactIndex(first, metric=metric, first_pass=first_pass)
        self.model = dict(enumerate(first))
        self.seed = 1

    @rule(n=st.integers(0, 5))
    def add(self, n: int) -> None:
        new, first = rows(n, self.seed), self.index.next_id
        self.seed += 1
        ids = self.index.add(new)
        assert ids.tolist() == list(range(first, first + n))
        self.model.update(zip(ids.tolist(), new, strict=True))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, max_size=4))
        self.index.remove(np.array(gone, np.int64))
        for id in gone:
            del self.model[id]

    @rule(id=st.integers(-2, 40))
    def remove_what_is_not_there(self, id: int) -> None:
        if id not in self.model:
            before = self.index.ids
            with pytest.raises(ValueError, match="ids"):
                self.index.remove(np.array([id]))
            assert np.array_equal(self.index.ids, before)

    @rule(how=st.sampled_from([copy.copy, lambda index: pickle.loads(pickle.dumps(index))]))
    def copied(self, how: Any) -> None:
        self.index = how(self.index)

    @invariant()
    def answers_are_those_of_the_model(self) -> None:
        ids = np.array(sorted(self.model), np.int64)
        assert np.array_equal(self.index.ids, ids) and len(self.index) == len(ids)
        vectors = np.array([self.model[id] for id in ids.tolist()]).reshape(-1, D).astype(np.float64)
        if self.index.metric == "l2":
            scores = -((QUERIES[:, None].astype(np.float64) - vectors) ** 2).sum(2)
        else:
            scores = QUERIES.astype(np.float64) @ vectors.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
        expected = np.pad(ids[order], ((0, 0), (0, 3 - order.shape[1])), constant_values=-1)
        # Scores of these small numbers differ by far more than float64 rounds, or not at all.
        assert np.array_equal(self.index.search(QUERIES, 3)[1], expected)
        mask = np.arange(self.index.next_id) % 2 == 0
        allowed = [
            [id for id in row if id % 2 == 0] for row in ids[np.argsort(-scores, axis=1, kind="stable")].tolist()
        ]
        exclude = (np.array([0, 0, 1, 1, 1]), np.array([0]) if self.index.next_id else np.array([], np.int64))
        if self.index.next_id:
            found = self.index.search(QUERIES, 3, filter=mask, exclude=exclude)[1]
            for i, row in enumerate(allowed):
                kept = [id for id in row if not (i == 1 and id == 0)][:3]
                assert found[i].tolist() == kept + [-1] * (3 - len(kept))


TestExactIndexAgainstADict = ExactIndexAgainstADict.TestCase
TestExactIndexAgainstADict.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("first_pass", ["i8", "f32"])
def test_what_is_loaded_answers_with_the_same_bits(tmp_path: Path, metric: Any, first_pass: Any) -> None:
    vectors = np.random.default_rng(0).standard_normal((700, D)).astype(np.float32)
    affine = {} if metric == "l2" else {"item_scale": vectors[:, 0] + 2, "item_bias": vectors[:, 1]}
    index = ExactIndex(vectors, metric=metric, first_pass=first_pass, **affine)
    index.remove(np.arange(0, 700, 3))
    index.save(tmp_path / "index")
    loaded = ExactIndex.load(tmp_path / "index")
    assert repr(loaded) == repr(index) and loaded.next_id == 700
    assert np.array_equal(loaded.ids, index.ids)
    for ours, expected in zip(loaded.search(QUERIES, 20), index.search(QUERIES, 20), strict=True):
        assert np.array_equal(ours, expected)
    for ours, expected in zip(loaded.knn_graph(5), index.knn_graph(5), strict=True):
        assert np.array_equal(ours, expected)
    for ours, expected in zip(loaded.range_search(QUERIES, 1.0), index.range_search(QUERIES, 1.0), strict=True):
        assert np.array_equal(ours, expected)
    more = {name: np.ones(2, np.float32) for name in affine}
    assert loaded.add(vectors[:2], **more).tolist() == [700, 701]
    loaded.sync()
    assert len(ExactIndex.load(tmp_path / "index")) == len(index) + 2


def test_a_change_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    index = ExactIndex(rows(5, 0), item_bias=np.zeros(5))
    for arguments, options, message in (
        ((rows(2, 1),), {}, "item_bias: the index has one"),
        ((rows(2, 1),), {"item_bias": np.zeros(3)}, "item_bias"),
        ((rows(2, 1),), {"item_bias": np.zeros(2), "item_scale": np.ones(2)}, "item_scale: the index has none"),
        ((rows(2, 1)[:, 1:],), {"item_bias": np.zeros(2)}, "9 columns"),
        ((np.full((2, D), np.nan),), {"item_bias": np.zeros(2)}, "NaN or infinity in row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            index.add(*arguments, **options)
    with pytest.raises(ValueError, match="duplicates"):
        index.remove(np.array([1, 1]))
    with pytest.raises(ValueError, match="sync: the index has no file yet"):
        index.sync()
    assert (len(index), index.next_id) == (5, 5)


def test_changes_of_several_threads_are_all_kept() -> None:
    index = ExactIndex(rows(50, 0))
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda seed: index.add(rows(3, seed)).tolist(), range(40)))
    assert sorted(id for ids in given for id in ids) == list(range(50, 170))
    assert len(index) == index.next_id == 170


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> bytes:
    path = tmp_path_factory.mktemp("exact") / "index"
    index = ExactIndex(rows(300, 0), item_scale=np.ones(300))
    index.remove(np.array([3]))
    index.save(path)
    return path.read_bytes()


def test_files_that_are_no_whole_index_are_refused(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index"
    GraphIndex.build(rows(10, 0)).save(tmp_path / "graph")
    for content, message in (
        (b"", "not an exact index"), (saved[::-1], "not an exact index"),
        ((tmp_path / "graph").read_bytes(), "not an exact index"), (saved[:8] + b"\2" + saved[9:], "version 2"),
        (saved[:-1], "length"), (saved[: len(saved) // 2], "length"), (saved + b"\0", "length"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(IndexFileError, match=message):
            ExactIndex.load(path)
    with pytest.raises(FileNotFoundError):
        ExactIndex.load(tmp_path / "none")


@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([1, 2, 400]), verify=st.booleans())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_are_found_and_never_a_crash(
    saved: bytes, tmp_path: Path, seed: int, count: int, verify: bool
) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(saved)
    for place in rng.integers(0, 512 if seed % 2 else len(content), count):
        content[place] ^= int(rng.integers(1, 256))
    (tmp_path / "index").write_bytes(content)
    try:
        index = ExactIndex.load(tmp_path / "index", verify=verify)
    except IndexFileError:
        return
    found = index.search(QUERIES, 5)[1]
    if verify:  # the padding between sections is all that no checksum covers
        (tmp_path / "whole").write_bytes(saved)
        assert np.array_equal(found, ExactIndex.load(tmp_path / "whole").search(QUERIES, 5)[1])


# Adds rows of its step's number and tells, after each sync, how many a crash may not lose.
WRITER = """
import sys, numpy as np
from simtile.search import ExactIndex, GraphIndex
first = np.zeros((4, 9), np.float32)
index = ExactIndex(first) if sys.argv[2] == "exact" else GraphIndex.build(first)
index.save(sys.argv[1])
for step in range(1, 100_000):
    index.add(np.full((2, 9), step, np.float32))
    if step % 3 == 0:
        index.remove(index.ids[-1:])
    index.sync()
    print(step, flush=True)
"""


@pytest.mark.parametrize("kind", ["exact", "graph"])
@pytest.mark.parametrize("lines", [1, 4, 15, 40])
def test_what_was_synced_outlasts_being_killed_at_any_moment(tmp_path: Path, kind: str, lines: int) -> None:
    path = tmp_path / "index"
    command = [sys.executable, "-c", WRITER, str(path), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(lines)]
        time.sleep(0.002 * (lines % 7))
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.readlines()
    acknowledged = int(told[-1])
    index = ExactIndex.load(path) if kind == "exact" else GraphIndex.load(path)
    # Acknowledged, or the next one, which was on the disk already.
    assert index.next_id in (4 + 2 * acknowledged, 6 + 2 * acknowledged)
    steps = (index.next_id - 4) // 2
    assert len(index) == index.next_id - steps // 3
    assert {name for name in os.listdir(tmp_path) if not name.endswith(".new")} == {"index"}
