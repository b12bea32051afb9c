"""What breaks other indexes: bad rows and queries, layouts, damaged files; each case for every index that has it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from simtile.search import ExactIndex, GraphIndex, IndexFileError

N, D = 1100, 24


@pytest.fixture(scope="module")
def vectors() -> Any:
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(vectors: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("index") / "index"
    GraphIndex.build(vectors, metric="cosine").save(path)
    return path.read_bytes()


BUILDERS = (ExactIndex, GraphIndex.build)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_and_queries_that_are_not_finite_are_refused(vectors: Any, build: Any, bad: float) -> None:
    rows = vectors.copy()
    rows[5, 3] = bad
    with pytest.raises(ValueError, match=r"vectors.*row 5"):
        build(rows)
    with pytest.raises(ValueError, match=r"queries.*row 5"):
        build(vectors).search(rows, 3)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("columns", [D - 1, D + 1, 2 * D])
def test_queries_of_another_dimension_are_refused(vectors: Any, build: Any, columns: int) -> None:
    with pytest.raises(ValueError, match=f"queries: {D} columns"):
        build(vectors).search(np.ones((2, columns), np.float32), 3)


@pytest.mark.parametrize("build", BUILDERS)
def test_any_layout_is_read_right(vectors: Any, build: Any) -> None:
    wide = np.zeros((N, 2 * D), np.float32)
    wide[:, ::2] = vectors
    wanted = build(vectors).search(vectors[:9], 4)
    for rows in (np.asfortranarray(vectors), wide[:, ::2], vectors[::-1][::-1]):
        for got, expected in zip(build(rows).search(rows[:9], 4), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("build", BUILDERS)
def test_missing_results_are_minus_one(vectors: Any, build: Any) -> None:
    ids = build(vectors[:3]).search(vectors[:2], 5)[1]
    assert (np.sort(ids, axis=1) == [-1, -1, 0, 1, 2]).all()
    assert (build(vectors[:0]).search(vectors[:2], 5)[1] == -1).all()


@pytest.mark.parametrize("build", BUILDERS)
def test_a_filter_that_passes_one_in_a_thousand_gives_what_passes(vectors: Any, build: Any) -> None:
    mask = np.zeros(N, bool)
    mask[777] = True
    scores, ids = build(vectors).search(vectors[:5], 2, filter=mask)
    assert (ids == [777, -1]).all()
    np.testing.assert_allclose(scores[:, 0], vectors[:5] @ vectors[777], rtol=1e-4, atol=1e-5)


def load(path: Path, content: bytes, *, verify: bool = True) -> GraphIndex:
    path.write_bytes(content)
    return GraphIndex.load(path, verify=verify)


def test_files_of_another_kind_are_told_apart(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index"
    for content in (b"", b"SIMTILEG", b"PK\3\4" + bytes(1000), saved[::-1], bytes(len(saved))):
        with pytest.raises(IndexFileError, match="not a graph index"):
            load(path, content)
    with pytest.raises(IndexFileError, match="version 3"):
        load(path, saved[:8] + b"\3" + saved[9:])
    with pytest.raises(FileNotFoundError):
        GraphIndex.load(tmp_path / "none")
    with pytest.raises((IndexFileError, OSError)):
        GraphIndex.load(tmp_path)
    with pytest.raises(OSError, match="none"):
        GraphIndex.build(np.ones((2, 2), np.float32)).save(tmp_path / "none" / "index")
    assert isinstance(IndexFileError("why"), ValueError)


@pytest.mark.parametrize("verify", [True, False])
def test_truncated_and_lengthened_files_are_refused(saved: bytes, tmp_path: Path, verify: bool) -> None:
    for content in (saved[:-1], saved[: len(saved) // 2], saved[:512], saved + b"\0"):
        with pytest.raises(IndexFileError, match="length"):
            load(tmp_path / "index", content, verify=verify)
    with pytest.raises(IndexFileError):
        load(tmp_path / "index", saved[:511], verify=verify)


def test_a_file_put_together_from_two_is_refused(saved: bytes, vectors: Any, tmp_path: Path) -> None:
    GraphIndex.build(vectors, metric="cosine", seed=1).save(tmp_path / "other")
    other = (tmp_path / "other").read_bytes()
    assert len(other) == len(saved)
    half = len(saved) // 2
    with pytest.raises(IndexFileError, match="damaged"):
        load(tmp_path / "index", other[:half] + saved[half:])


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_are_found(saved: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(saved)
    count = data.draw(st.sampled_from([1, 2, 400]))
    # The padding between sections, a few bytes of zeros, is all that no checksum covers.
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    places = rng.integers(0, 512 if data.draw(st.booleans()) else len(content), count)
    for place in places:
        content[place] ^= int(rng.integers(1, 256))
    if content == saved:
        return
    try:
        index = load(tmp_path / "index", bytes(content))
    except IndexFileError:
        return
    index.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_unverified_damage_is_no_crash(saved: bytes, vectors: Any, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(saved)
    for place in rng.integers(512, len(content), 400):
        content[place] = int(rng.integers(0, 256))
    index = load(tmp_path / "index", bytes(content), verify=False)
    scores, ids = index.search(vectors[:20], 10, ef=50)
    assert scores.shape == ids.shape == (20, 10)


@given(
    seed=st.integers(0, 2**32 - 1), steps=st.lists(st.sampled_from(["add", "remove", "compact", "file"]), max_size=8)
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_changes_leaves_what_a_dictionary_holds(tmp_path: Path, seed: int, steps: list[str]) -> None:
    rng = np.random.default_rng(seed)
    index = GraphIndex.build(np.zeros((0, 6), np.float32), metric="l2", degree=8, breadth=16)
    held: dict[int, Any] = {}
    for step in ["add", *steps]:
        if step == "add":
            rows = rng.standard_normal((int(rng.integers(0, 300)), 6)).astype(np.float32)
            held |= dict(zip(index.add(rows).tolist(), rows, strict=True))
        elif step == "remove":
            gone = rng.permutation(list(held))[: int(rng.integers(0, len(held) + 1))].astype(np.int64)
            index.remove(gone)
            held = {key: row for key, row in held.items() if key not in set(gone.tolist())}
        elif step == "compact":
            index.compact()
        else:
            index.save(tmp_path / "index")
            index = GraphIndex.load(tmp_path / "index")
        assert index.ids.tolist() == sorted(held)
        if held:
            keys = list(held)[:50]
            scores, ids = index.search(np.stack([held[key] for key in keys]), 1, ef=60)
            assert (ids[:, 0] == keys).mean() >= 0.9
            assert not scores[ids[:, 0] == keys].any()


@pytest.mark.parametrize("k", [10**13, sys.maxsize])
def test_more_results_than_memory_raise_and_leave_the_process_alive(k: int) -> None:
    vectors = np.eye(40, 8, dtype=np.float32)
    exact, graph = ExactIndex(vectors), GraphIndex.build(vectors)
    calls: list[Callable[[], object]] = [
        lambda: exact.search(vectors, k),
        lambda: exact.knn_graph(k),
        lambda: graph.search(vectors, k),
    ]
    for call in calls:
        with pytest.raises(MemoryError, match="k: no memory for 40 lists"):
            call()
    for index in (exact, graph):
        with pytest.raises(ValueError, match="k: at most"):
            index.search(vectors, sys.maxsize + 1)
