"""The index as a whole: what it buys, finds, keeps, saves and refuses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simtile.cur import CallableScorer, CrossEncoderIndex, JournalError, Limits
from simtile.cur.arrays_file import read_arrays, write_arrays
from simtile.cur.item_matrix import dequantized, quantized
from simtile.cur.rounds import round_sizes

Q, N, M = 48, 600, 16


class World:
    """Scores that an embedding half explains, that factors and hubs explain further, and a log of what was asked."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.queries, self.items = (rng.normal(size=(size, 12)).astype(np.float32) for size in (Q + M, N))
        hidden = rng.normal(size=(Q + M, 8)) @ rng.normal(size=(8, N))
        self.scores = (
            self.queries @ self.items.T + hidden + 2.0 * rng.normal(size=N) + 0.3 * rng.normal(size=(Q + M, N))
        )
        self.asked: list[tuple[str, str]] = []
        self.broken = False

    def scorer(self, **limits: Any) -> CallableScorer:
        def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
            if self.broken:
                raise OSError("gone")
            self.asked += pairs
            return [float(self.scores[int(query[1:]), int(item[1:])]) for query, item in pairs]

        return CallableScorer(score, version="world", limits=Limits(**{"batch_size": 500, **limits}))

    def build(self, **options: Any) -> CrossEncoderIndex:
        arguments = {"query_embeddings": self.queries[:Q], "item_embeddings": self.items, "rank": 8, **options}
        return CrossEncoderIndex.build(names("i", N), self.scorer(), queries=names("q", Q), **arguments)

    def search(
        self, index: CrossEncoderIndex, k: int = 10, budget: int = 60, **options: Any
    ) -> list[list[dict[str, Any]]]:
        return index.search(names("q", Q + M)[Q:], k, budget=budget, query_embeddings=self.queries[Q:], **options)

    def recall(self, hits: Sequence[list[dict[str, Any]]], offset: Any = 0.0) -> float:
        exact = np.argsort(-(self.scores[Q:] - offset), axis=1)
        shares = [
            np.isin(row[: len(found)], [hit["corpus_id"] for hit in found]).mean()
            for row, found in zip(exact, hits, strict=True)
        ]
        return float(np.mean(shares))


def names(kind: str, n: int) -> list[str]:
    return [f"{kind}{i}" for i in range(n)]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def dense(world: World) -> CrossEncoderIndex:
    return world.build(dense=True)


def test_auto_finds_more_than_reranking_and_every_score_is_the_scorers(world: World, dense: CrossEncoderIndex) -> None:
    hits = world.search(dense)
    assert world.recall(hits) > world.recall(world.search(dense, method="rerank")) + 0.1
    for query, found in zip(world.scores[Q:], hits, strict=True):
        scores = [hit["score"] for hit in found]
        assert scores == [query[hit["corpus_id"]] for hit in found] == sorted(scores, reverse=True)


@pytest.mark.parametrize("method", ["auto", "rerank", "anncur", "adacur", "axn"])
def test_a_search_spends_its_budget_and_no_more(world: World, dense: CrossEncoderIndex, method: Any) -> None:
    world.asked.clear()
    hits = world.search(dense, method=method, budget=33)
    assert len(world.asked) == len(set(world.asked)) == 33 * M
    assert hits.stats.scored == 33 * M and hits.stats.calls == len(round_counts(method))  # type: ignore[attr-defined]


def round_counts(method: str) -> list[int]:
    """Rounds of all queries fit a call each: the scorer sees whole batches."""
    sizes = {"rerank": [33], "anncur": round_sizes(33, 2, 0.5), "auto": [0] * 4}.get(method, [0] * 5)
    return [1 for size in sizes for _ in range(-(-size * M // 500) or 1)]


def test_a_sparse_index_buys_what_it_was_allowed_to(world: World) -> None:
    world.asked.clear()
    index = world.build(calls_per_query=90)
    assert len(set(world.asked)) == len(world.asked) == 90 * Q
    assert world.recall(world.search(index)) > world.recall(world.search(index, method="rerank"))
    for method in ("anncur", "adacur"):
        with pytest.raises(ValueError, match="dense=True"):
            world.search(index, method=method)


def test_a_sparse_index_with_a_retriever_of_its_own_buys_its_list_as_deep_as_it_can(world: World) -> None:
    """What reranking its list finds is judged on what was bought of it."""
    order = np.argsort(-(world.queries @ world.items.T), axis=1)
    world.asked.clear()
    world.build(
        calls_per_query=80,
        query_embeddings=None,
        item_embeddings=None,
        retriever=lambda queries, k: order[[int(query[1:]) for query in queries], :k],
    )
    assert len(world.asked) == 80 * Q
    assert {(f"q{q}", f"i{i}") for q in range(Q) for i in order[q, :60]} <= set(world.asked)


def test_the_centred_target_ranks_without_the_hubs(world: World, dense: CrossEncoderIndex) -> None:
    hits = world.search(dense, target="centred")
    assert world.recall(hits, dense.item_means) > world.recall(world.search(dense), dense.item_means) + 0.05
    for query, found in zip(world.scores[Q:], hits, strict=True):
        assert all(hit["score"] == query[hit["corpus_id"]] for hit in found)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_factors_find_nearly_the_same(world: World, dense: CrossEncoderIndex, dtype: Any) -> None:
    narrow = world.build(dense=True, dtype=dtype)
    assert abs(world.recall(world.search(narrow)) - world.recall(world.search(dense))) < 0.03


def test_known_scores_are_not_bought_again(world: World, tmp_path: Path) -> None:
    index = world.build(calls_per_query=40, store=tmp_path / "j")
    first = world.search(index, keep=True)
    world.asked.clear()
    again = world.search(index)
    assert again == first and not world.asked
    assert again.stats.known == 60 * M  # type: ignore[attr-defined]
    index.close()
    world.build(calls_per_query=40, store=tmp_path / "j").close()
    assert not world.asked


def test_a_search_whose_scores_partly_fail_gives_the_rest(world: World, dense: CrossEncoderIndex) -> None:
    scores = world.scores.copy()
    world.scores[Q:, ::7] = np.nan
    try:
        hits = world.search(dense)
    finally:
        world.scores[:] = scores
    assert hits.stats.not_finite > 0 and all(len(found) == 10 for found in hits)  # type: ignore[attr-defined]
    assert all(hit["corpus_id"] % 7 for found in hits for hit in found)


def test_a_deadline_is_honoured_within_one_batch(world: World, dense: CrossEncoderIndex) -> None:
    def slow(pairs: Sequence[tuple[str, str]]) -> list[float]:
        time.sleep(0.03)
        return [float(world.scores[int(q[1:]), int(i[1:])]) for q, i in pairs]

    index = world.build(dense=True)
    index._shop.scorer = CallableScorer(slow, version="world", limits=Limits(batch_size=M))
    world.search(index)  # makes the choice of hyper-parameters, which is no part of a warm search
    start = time.monotonic()
    hits = world.search(index, deadline=0.2)
    assert time.monotonic() - start < 0.2 + 0.03 + 0.15  # one batch, and the time around the scorer
    assert hits.stats.skipped > 0 and any(hits)  # type: ignore[attr-defined]


def test_stopping_early_saves_calls_where_the_top_is_settled() -> None:
    world = World()
    rng = np.random.default_rng(1)
    hidden = 2.0 * rng.normal(size=(Q + M, 5)) @ rng.normal(size=(5, N))
    world.scores = world.queries @ world.items.T + hidden  # nothing that a model of rank 8 cannot know
    index = world.build(dense=True)
    world.asked.clear()
    hits = world.search(index, 3, budget=200, stop_early=True)
    assert world.recall(hits) > 0.98 and len(world.asked) < 150 * M


def test_items_can_be_added_and_removed(world: World) -> None:
    arguments = {"queries": names("q", Q), "query_embeddings": world.queries[:Q]}
    for dense in (True, False):
        index = CrossEncoderIndex.build(
            names("i", 500),
            world.scorer(),
            item_embeddings=world.items[:500],
            dense=dense,
            calls_per_query=80,
            **arguments,
        )
        world.asked.clear()
        ids = index.add(names("i", N)[500:], item_embeddings=world.items[500:])
        np.testing.assert_array_equal(ids, range(500, 600))
        assert len(world.asked) == (100 * Q if dense else 0)
        assert len(index) == N and world.recall(world.search(index)) > 0.5
        found = {hit["corpus_id"] for hits in world.search(index) for hit in hits}
        index.remove(sorted(found))
        assert len(index) == N - len(found)
        for method in ("auto", "rerank", "axn"):
            later = world.search(index, method=method)
            assert all(len(hits) == 10 for hits in later)
            assert found.isdisjoint(hit["corpus_id"] for hits in later for hit in hits)
        with pytest.raises(ValueError, match="ids: items that are there"):
            index.remove([min(found)])


def test_a_filter_holds_in_every_round(world: World, dense: CrossEncoderIndex) -> None:
    mask = np.arange(N) % 3 == 0
    for method in ("auto", "rerank", "anncur", "adacur", "axn"):
        by_mask = world.search(dense, method=method, filter=mask)
        assert all(hit["corpus_id"] % 3 == 0 for found in by_mask for hit in found)
        assert by_mask == world.search(dense, method=method, filter=np.flatnonzero(mask))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("is_dense", [True, False])
def test_a_saved_index_answers_as_before(world: World, tmp_path: Path, dtype: Any, is_dense: bool) -> None:
    index = world.build(dense=is_dense, calls_per_query=80, dtype=dtype)
    index.remove([3, 5])
    before = world.search(index)
    index.save(tmp_path / "index")
    loaded = CrossEncoderIndex.load(tmp_path / "index", world.scorer())
    assert world.search(loaded) == before and len(loaded) == N - 2
    loaded.refit()
    loaded.save(tmp_path / "index")
    assert world.search(CrossEncoderIndex.load(tmp_path / "index", world.scorer())) == world.search(loaded)


def test_a_file_that_was_damaged_or_is_anothers_is_refused(world: World, tmp_path: Path) -> None:
    world.build(calls_per_query=20).save(tmp_path)
    with pytest.raises(ValueError, match="version 'world'"):
        CrossEncoderIndex.load(tmp_path, CallableScorer(lambda pairs: [0.0] * len(pairs), version="other"))
    raw = bytearray((tmp_path / "arrays.safetensors").read_bytes())
    raw[-5] ^= 1
    (tmp_path / "arrays.safetensors").write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"):
        CrossEncoderIndex.load(tmp_path, world.scorer())


def test_arrays_are_readable_by_safetensors(tmp_path: Path, rng: np.random.Generator) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {"a": rng.normal(size=(3, 2)), "b": np.arange(4, dtype=np.int8), "c": np.array([True, False])}
    write_arrays(tmp_path / "x", arrays)
    for found in (numpy.load_file(tmp_path / "x"), read_arrays(tmp_path / "x")):
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


def test_rounding_is_to_the_nearest(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 7)).astype(np.float32)
    np.testing.assert_allclose(dequantized(quantized(x, "bfloat16")), x, rtol=2.0**-8)
    np.testing.assert_allclose(dequantized(quantized(x, "int8")), x, atol=np.abs(x).max() / 254 * 1.001)
    np.testing.assert_array_equal(dequantized(quantized(np.zeros((2, 3)), "int8")), 0.0)
    once = dequantized(quantized(x, "int8"))
    np.testing.assert_allclose(dequantized(quantized(once, "int8")), once, rtol=1e-6)


def test_rank_gives_what_a_cross_encoder_gives(world: World, dense: CrossEncoderIndex) -> None:
    documents = [*names("i", 100), "i5"]
    everything = dense.rank("q50", documents, query_embedding=world.queries[50])
    scores = [*world.scores[50, :100], world.scores[50, 5]]
    order = np.lexsort((np.arange(101), -np.array(scores)))
    assert [hit["corpus_id"] for hit in everything] == order.tolist()
    assert [hit["score"] for hit in everything] == sorted(scores, reverse=True)
    world.asked.clear()
    top = dense.rank("q50", documents, top_k=3, budget=40, query_embedding=world.queries[50], return_documents=True)
    assert len(world.asked) == 40 and [hit["text"] for hit in top] == [documents[hit["corpus_id"]] for hit in top]
    assert {hit["corpus_id"] for hit in top} <= set(order[:6].tolist())
    assert dense.rank("q50", []) == []


def test_rank_takes_documents_that_the_index_has_not(world: World, dense: CrossEncoderIndex) -> None:
    scorer = dense._shop.scorer
    dense._shop.scorer = CallableScorer(lambda pairs: [float(len(item)) for _, item in pairs], version="length")
    try:
        hits = dense.rank("q50", ["i1", "something new", "new"], budget=3)
    finally:
        dense._shop.scorer = scorer
    assert [hit["corpus_id"] for hit in hits] == [1, 2, 0]


def test_a_retriever_function_serves_instead_of_embeddings(world: World) -> None:
    def retriever(queries: Sequence[str], k: int) -> NDArray[np.int64]:
        rows = [int(query[1:]) for query in queries]
        return np.argsort(-(world.queries[rows] @ world.items.T), axis=1)[:, :k]

    index = CrossEncoderIndex.build(
        names("i", N), world.scorer(), queries=names("q", Q), retriever=retriever, dense=True, rank=8
    )
    queries = names("q", Q + M)[Q:]
    auto, rerank = (index.search(queries, 10, budget=60, method=method) for method in ("auto", "rerank"))  # type: ignore[arg-type]
    assert world.recall(auto) > world.recall(rerank)


def test_exported_vectors_give_the_first_round_anywhere(world: World, dense: CrossEncoderIndex) -> None:
    scores = dense.query_vectors(world.queries[Q:]) @ dense.vectors.T
    exact = np.argsort(-world.scores[Q:], axis=1)[:, :10]
    first = np.argsort(-scores, axis=1)[:, :60]
    embedding_only = np.argsort(-(world.queries[Q:] @ world.items.T), axis=1)[:, :60]
    shares = [
        np.mean([np.isin(e, f).mean() for e, f in zip(exact, lists, strict=True)]) for lists in (first, embedding_only)
    ]
    assert shares[0] > shares[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k, budget"),
        ({"k": 61}, "k, budget"),
        ({"method": "magic"}, "method"),
        ({"target": "half"}, "target"),
        ({"rounds": 0}, "rounds"),
        ({"ridge": -1.0, "method": "axn"}, "ridge"),
        ({"filter": np.ones(3, bool)}, "filter"),
    ],
)
def test_wrong_arguments_are_named(
    world: World, dense: CrossEncoderIndex, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        world.search(dense, **options)


def test_wrong_embeddings_and_items_are_named(world: World, dense: CrossEncoderIndex) -> None:
    with pytest.raises(ValueError, match=r"query_embeddings: an array \(1, 12\)"):
        dense.search(["q50"], 1, budget=5)
    with pytest.raises(ValueError, match=r"query_embeddings: shape \(1, 12\)"):
        dense.search(["q50"], 1, budget=5, query_embeddings=np.ones((1, 3)))
    with pytest.raises(TypeError, match="queries"):
        dense.search("q50", 1, budget=5)
    with pytest.raises(ValueError, match="item_embeddings: finite"):
        world.build(item_embeddings=np.full((N, 12), np.nan))
    with pytest.raises(TypeError, match="scorer"):
        CrossEncoderIndex.build(["a"], len, queries=["b"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="items, queries"):
        CrossEncoderIndex.build([], world.scorer(), queries=["b"])


def test_a_store_of_another_scorer_is_refused(world: World, tmp_path: Path) -> None:
    world.build(calls_per_query=5, store=tmp_path / "j").close()
    with pytest.raises(JournalError, match="wanted those of"):
        CrossEncoderIndex.build(
            ["a"],
            CallableScorer(lambda pairs: [0.0] * len(pairs), version="other"),
            queries=["b"],
            store=tmp_path / "j",
        )


def test_a_build_shows_its_progress(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    world.build(calls_per_query=5, progress=True)
    assert f"{5 * Q}/{5 * Q}" in capfd.readouterr().err
