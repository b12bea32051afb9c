"""The graph index: what a search returns, that it is the same bits everywhere, changes, files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from simtile import _core
from simtile.search import ExactIndex, GraphIndex

Metric = Literal["ip", "cosine", "l2"]
METRICS: tuple[Metric, ...] = ("ip", "cosine", "l2")
ISAS = _core.isas()
Vectors = NDArray[np.float32]


def clusters(rng: np.random.Generator, n: int, d: int, *, lengths: bool = False) -> Vectors:
    """Rows around centres, as embeddings lie; with ``lengths`` some are three times as long as others."""
    rows = rng.standard_normal((max(1, n // 50), d))[rng.integers(0, max(1, n // 50), n)] + rng.standard_normal((n, d))
    if lengths:
        rows *= rng.uniform(0.5, 1.5, (n, 1))
    return rows.astype(np.float32)


def recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """Share of the wanted ids that were found."""
    there = wanted >= 0
    return float((there & (wanted[:, :, None] == found[:, None, :]).any(axis=2)).sum() / max(1, there.sum()))


# One shape a regime: codes alone, signs, more columns than a cache line of signs holds, a power of two, one column.
@pytest.mark.parametrize("d", [1, 24, 100, 128, 200, 500])
@pytest.mark.parametrize("metric", METRICS)
def test_finds_nearly_what_exact_search_finds(rng: np.random.Generator, d: int, metric: Metric) -> None:
    y = clusters(rng, 2000, d, lengths=True)
    x = y[rng.integers(0, 2000, 100)] + 0.5 * rng.standard_normal((100, d), dtype=np.float32)
    wanted = ExactIndex(y, metric=metric).search(x, 10)
    scores, ids = GraphIndex.build(y, metric=metric).search(x, 10, ef=100)
    assert recall(ids, wanted[1]) > 0.95
    same = ids == wanted[1]
    np.testing.assert_array_equal(scores[same], wanted[0][same])
    for row in ids:
        assert len(set(row)) == 10


def test_same_bits_on_every_instruction_set_and_for_any_number_of_threads(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    for d in (40, 150):
        y, x = clusters(rng, 700, d, lengths=True), clusters(rng, 20, d)
        files, results = [], []
        for isa, threads in [(ISAS[0], 1), (ISAS[0], 3), *((isa, 2) for isa in ISAS[1:])]:
            store = _core.GraphStore(y[:600], num_threads=threads, isa=isa)
            store.add(y[600:], num_threads=threads, isa=isa)
            store.remove(np.arange(0, 700, 7), num_threads=threads, isa=isa)
            store.save(str(tmp_path / "index"))
            files.append((tmp_path / "index").read_bytes())
            results.append(store.search(x, 10, 30, num_threads=threads, isa=isa))
        assert files.count(files[0]) == len(files)
        for scores, ids in results[1:]:
            np.testing.assert_array_equal(ids, results[0][1])
            np.testing.assert_array_equal(scores, results[0][0])


def test_a_seed_makes_the_graph(rng: np.random.Generator, tmp_path: Path) -> None:
    y = clusters(rng, 900, 20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        GraphIndex.build(y, seed=seed).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("metric", METRICS)
def test_filters(rng: np.random.Generator, metric: Metric) -> None:
    y = clusters(rng, 4000, 32)
    x = y[rng.integers(0, 4000, 40)] + 0.5 * rng.standard_normal((40, 32), dtype=np.float32)
    index, exact = GraphIndex.build(y, metric=metric), ExactIndex(y, metric=metric)
    # The whole, on both sides of the share below which all that pass are compared with, few, one, none.
    for share in (1.0, 0.7, 0.3, 0.02, 0.001, 0.0):
        mask = rng.random(4000) < share
        for passing in (mask, rng.permutation(np.flatnonzero(mask))):
            wanted = exact.search(x, 10, filter=mask)[1]
            found = index.search(x, 10, ef=64, filter=passing)[1]
            assert mask[found[found >= 0]].all()
            np.testing.assert_array_equal(found >= 0, wanted >= 0)
            assert share == 0 or recall(found, wanted) > 0.95
            if share <= 0.02:
                np.testing.assert_array_equal(found, wanted)


def test_a_filter_that_passes_what_is_far_away_only(rng: np.random.Generator) -> None:
    y = clusters(rng, 3000, 16)
    y[1000:] += 40
    x = y[2000:2040]
    index = GraphIndex.build(y, metric="l2")
    found = index.search(x, 10, ef=20, filter=np.arange(1000))[1]
    wanted = ExactIndex(y[:1000], metric="l2").search(x, 10)[1]
    assert recall(found, wanted) > 0.9


@pytest.mark.parametrize("metric", METRICS)
def test_items_that_are_added_are_found(rng: np.random.Generator, metric: Metric) -> None:
    y, x = clusters(rng, 2500, 30, lengths=True), clusters(rng, 60, 30)
    index = GraphIndex.build(y[:500] / 4, metric=metric)
    index.remove(np.arange(500))
    # Longer ones come later: the coordinate that inner products gain changes for all.
    y[1500:] *= 2
    ids = np.concatenate([index.add(y[from_ : from_ + 500]) for from_ in range(0, 2500, 500)])
    np.testing.assert_array_equal(ids, np.arange(500, 3000))
    assert len(index) == 2500
    wanted = ExactIndex(y, metric=metric).search(x, 10)[1] + 500
    assert recall(index.search(x, 10, ef=100)[1], wanted) > 0.95


def test_what_is_removed_is_never_returned_and_the_rest_is_found(rng: np.random.Generator, tmp_path: Path) -> None:
    y, x = clusters(rng, 4000, 24), clusters(rng, 60, 24)
    index = GraphIndex.build(y, metric="l2")
    order = rng.permutation(4000)
    kept = np.arange(4000)
    # Nine in ten at the end, then nearly all: most neighbours of most items are gone at once.
    for gone in (order[:400], order[400:2000], order[2000:3600], order[3600:3990]):
        index.remove(gone)
        kept = np.setdiff1d(kept, gone)
        np.testing.assert_array_equal(index.ids, kept)
        wanted = kept[ExactIndex(y[kept], metric="l2").search(x, 10)[1]]
        found = index.search(x, 10, ef=64)[1]
        assert np.isin(found, kept).all()
        assert recall(found, wanted) >= 0.95
    before = index.search(x, 10)
    large = index.graph_bytes
    index.compact()
    assert index.graph_bytes < large / 100
    for got, expected in zip(index.search(x, 10), before, strict=True):
        np.testing.assert_array_equal(got, expected)
    index.remove(index.ids)
    assert len(index) == 0
    assert (index.search(x, 3)[1] == -1).all()
    assert index.add(y[:5]).tolist() == [4000, 4001, 4002, 4003, 4004]
    np.testing.assert_array_equal(index.search(y[:5], 1)[1][:, 0], np.arange(4000, 4005))


def test_compaction_of_a_large_index_changes_no_result(rng: np.random.Generator) -> None:
    y, x = clusters(rng, 1500, 140), clusters(rng, 40, 140)
    index = GraphIndex.build(y, metric="cosine")
    index.remove(np.arange(0, 1500, 3))
    before = index.search(x, 10, ef=40)
    index.compact()
    for got, expected in zip(index.search(x, 10, ef=40), before, strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="ids: no item 3"):
        index.remove(np.array([3]))
    index.remove(np.array([4]))
    assert 4 not in index.search(y[4], 3)[1]


def test_duplicates_hide_nobody(rng: np.random.Generator) -> None:
    y = clusters(rng, 1000, 48)
    copies = np.repeat(y[:1] + 0.1, 2000, axis=0)
    index = GraphIndex.build(np.concatenate([copies, y]), metric="l2")
    ids = index.search(y, 1, ef=200)[1][:, 0]
    assert (ids == np.arange(2000, 3000)).mean() >= 0.99
    scores, ids = index.search(copies[:1], 10, ef=200)
    assert not scores.any()
    assert (ids < 2000).all()


def test_all_items_alike(rng: np.random.Generator) -> None:
    for value in (0.0, 1.0):
        for metric in METRICS:
            index = GraphIndex.build(np.full((700, 20), value, np.float32), metric=metric)
            np.testing.assert_array_equal(index.search(np.ones((1, 20), np.float32), 3, exact=True)[1], [[0, 1, 2]])
            assert (index.search(np.ones((1, 20), np.float32), 3)[1] >= 0).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.sampled_from([-40, -20, -3, 0, 10, 18, 37]),
    query_exponent=st.sampled_from([-40, 0, 18, 37]),
    metric=st.sampled_from(METRICS),
    d=st.sampled_from([3, 130]),
)
@settings(max_examples=25)
def test_any_magnitude(seed: int, exponent: int, query_exponent: int, metric: Metric, d: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, (900, d)).astype(np.float32) * np.float32(10.0**exponent)
    x = rng.uniform(-1, 1, (4, d)).astype(np.float32) * np.float32(10.0**query_exponent)
    scores, ids = GraphIndex.build(y, metric=metric, degree=16, breadth=32).search(x, 5, ef=100)
    assert not np.isnan(scores).any()
    assert (ids >= 0).all()
    for row in ids:
        assert len(set(row)) == 5


@pytest.mark.parametrize("d", [30, 160])
@pytest.mark.parametrize("metric", METRICS)
def test_a_file_holds_the_index(rng: np.random.Generator, tmp_path: Path, metric: Metric, d: int) -> None:
    y, x = clusters(rng, 1200, d, lengths=True), clusters(rng, 30, d)
    index = GraphIndex.build(y, metric=metric)
    index.remove(np.arange(0, 1200, 5))
    index.save(tmp_path / "index")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    for verify in (True, False):
        loaded = GraphIndex.load(tmp_path / "index", verify=verify)
        assert repr(loaded) == repr(index)
        for got, expected in zip(loaded.search(x, 10, ef=40), index.search(x, 10, ef=40), strict=True):
            np.testing.assert_array_equal(got, expected)
    # Changed after it was mapped: as the original is, and the file stays until it is told otherwise.
    for changed in (index, loaded):
        changed.add(y[:300] * 1.5)
        changed.remove(np.array([1, 2, 1250]))
        changed.compact()
    index.save(tmp_path / "other")
    assert len(GraphIndex.load(tmp_path / "index")) == 960
    loaded.sync()
    assert (tmp_path / "index").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_mapped_index_outlives_its_file(rng: np.random.Generator, tmp_path: Path) -> None:
    y = clusters(rng, 800, 10)
    GraphIndex.build(y).save(tmp_path / "index")
    loaded = GraphIndex.load(tmp_path / "index")
    before = loaded.search(y[:20], 5)
    GraphIndex.build(-y[:100]).save(tmp_path / "index")
    (tmp_path / "index").unlink()
    for got, expected in zip(loaded.search(y[:20], 5), before, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_searches_while_items_come_and_go(rng: np.random.Generator) -> None:
    y = clusters(rng, 3000, 32)
    index = GraphIndex.build(y[:1000], metric="l2")
    failures: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                scores, ids = index.search(y[:50], 5, num_threads=1)
                # The first 50 are never removed: each finds itself, at distance 0.
                assert (ids[:, 0] == np.arange(50)).all()
                assert not scores[:, 0].any()
        except BaseException as failure:
            failures.append(failure)

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for searcher in searchers:
        searcher.start()
    for from_ in range(1000, 3000, 500):
        index.add(y[from_ : from_ + 500], num_threads=1)
        index.remove(np.arange(from_ - 500, from_ - 300), num_threads=1)
    done.set()
    for searcher in searchers:
        searcher.join()
    assert not failures, failures[0]
    assert len(index) == 2200


def test_tuning_reaches_the_recall(rng: np.random.Generator) -> None:
    y, x = clusters(rng, 3000, 64), clusters(rng, 200, 64)
    index = GraphIndex.build(y)
    wanted = ExactIndex(y).search(x, 10)[1]
    low, high = index.tune(0.8, queries=x), index.tune(0.99, queries=x)
    assert 10 <= low <= high == index.ef
    assert recall(index.search(x, 10)[1], wanted) >= 0.99
    assert index.tune(0.9) == index.ef
    assert index.tune(1e-9, k=3) == 3
    with pytest.raises(ValueError, match="target_recall"):
        index.tune(1.5)
    with pytest.raises(ValueError, match="queries"):
        GraphIndex.build(y[:0]).tune(0.9)


def test_what_comes_in_goes_out(rng: np.random.Generator) -> None:
    y = clusters(rng, 600, 16)
    index = GraphIndex.build(torch.from_numpy(y), metric="cosine")
    scores, ids = index.search(torch.from_numpy(y[:4]), 3)
    assert isinstance(scores, torch.Tensor)
    assert ids.dtype == torch.int64
    wide = np.zeros((600, 32), np.float32)
    wide[:, ::2] = y
    for layout in (np.asfortranarray(y), wide[:, ::2], y.astype(np.float64)):
        other = GraphIndex.build(layout, metric="cosine")
        np.testing.assert_array_equal(other.search(wide[:4, ::2], 3)[1], ids.numpy())
    assert index.search(y[0], 3)[1].shape == (3,)
    with pytest.raises(TypeError, match=r"GraphIndex\.build"):
        GraphIndex()


def test_k_and_empty_sides(rng: np.random.Generator) -> None:
    y = clusters(rng, 700, 12)
    index, empty = GraphIndex.build(y, metric="l2"), GraphIndex.build(y[:0], metric="l2")
    assert index.search(y[:3], 0)[1].shape == (3, 0)
    assert index.search(y[:0], 4)[1].shape == (0, 4)
    scores, ids = index.search(y[:2], 900)
    np.testing.assert_array_equal(np.sort(ids[:, :700]), np.tile(np.arange(700), (2, 1)))
    assert (ids[:, 700:] == -1).all()
    assert (scores[:, 700:] == np.inf).all()
    assert (empty.search(y[:2], 3)[1] == -1).all()
    assert empty.add(y[:0]).tolist() == []
    empty.compact()
    empty.remove(np.array([], np.int64))


GOOD = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vectors": GOOD * np.nan}, ValueError, "vectors.*row 0"),
        ({"vectors": np.full((2, 3), 1e200)}, ValueError, "vectors.*row 0"),
        ({"vectors": GOOD[0]}, ValueError, "vectors: shape"),
        ({"vectors": GOOD[:, :0]}, ValueError, "vectors: at least 1 columns"),
        ({"vectors": GOOD.astype(np.int64)}, TypeError, "vectors: float16"),
        ({"metric": "dot"}, ValueError, "metric"),
        ({"degree": 3}, ValueError, "degree"),
        ({"degree": 129, "breadth": 200}, ValueError, "degree"),
        ({"breadth": 47}, ValueError, "breadth"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"num_threads": 0}, ValueError, "num_threads"),
    ],
)
def test_a_wrong_item_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GraphIndex.build(**({"vectors": GOOD} | arguments))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.search(GOOD * np.inf, 1), ValueError, "queries.*row 0"),
        (lambda i: i.search(np.ones((2, 4), np.float32), 1), ValueError, "queries: 3 columns, got 4"),
        (lambda i: i.search(GOOD, -1), ValueError, "k: at least 0"),
        (lambda i: i.search(GOOD, 1.5), TypeError, "k: an integer"),
        (lambda i: i.search(GOOD, 1, ef=-3), ValueError, "ef"),
        (lambda i: i.search(GOOD, 1, filter=np.ones(3, bool)), ValueError, "filter: a mask"),
        (lambda i: i.search(GOOD, 1, filter=np.array([4])), ValueError, "filter: ids"),
        (lambda i: i.add(GOOD * np.nan), ValueError, "vectors.*row 0"),
        (lambda i: i.add(np.ones((2, 4), np.float32)), ValueError, "vectors: 3 columns, got 4"),
        (lambda i: i.remove(np.array([4])), ValueError, "ids: no item 4"),
        (lambda i: i.remove(np.array([-1])), ValueError, "ids: no item -1"),
        (lambda i: i.remove(np.array([1, 1])), ValueError, "ids: 1 comes twice"),
        (lambda i: i.remove(np.ones(2)), TypeError, "ids: integers"),
        (lambda i: i.sync(), ValueError, "sync"),
    ],
)
def test_a_wrong_call_changes_nothing(call: Any, error: type[Exception], message: str) -> None:
    index = GraphIndex.build(GOOD)
    with pytest.raises(error, match=message):
        call(index)
    assert index.ids.tolist() == [0, 1, 2, 3]
    assert index.next_id == 4
