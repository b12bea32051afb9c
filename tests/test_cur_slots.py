"""Blocks over workers, and the slots of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from simtile.cur import CallableScorer, CrossEncoderIndex, Limits, ScoreJournal, Scorer, ScorerError
from simtile.cur.blocks import score_blocks
from simtile.cur.slots import Lookup, upgrade_rank
from simtile.executors import Executor, InProcess, ProcessExecutor
from simtile.integrations.retrievers import (
    VectorLookup,
    haystack_retriever,
    langchain_retriever,
    llama_index_retriever,
)
from simtile.search import ExactIndex, GraphIndex

ITEMS = [f"item {i}" for i in range(60)]


def length_scores(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [float(hash_of(query) * int(item.split()[1]) % 61) for query, item in pairs]


def hash_of(query: str) -> int:
    return sum(query.encode())


def make_scorer() -> Scorer:
    return CallableScorer(length_scores, version="v", limits=Limits(batch_size=7))


def make_broken_scorer() -> Scorer:
    def score(pairs: Sequence[Any]) -> list[float]:
        raise ScorerError("no model here")

    return CallableScorer(score, version="v")


@pytest.mark.parametrize("executor", [InProcess(), ProcessExecutor(2)])
def test_blocks_give_the_scores_of_one_process_and_buy_only_what_is_missing(executor: Executor) -> None:
    queries = ["a", "bb", "ccc"]
    with ScoreJournal(None, version="v") as journal:
        journal.append(journal.query_numbers(["bb"]), journal.item_numbers(ITEMS[3:4]), np.array([123.0]))
        sizes: list[int] = []
        stats = score_blocks(
            queries, ITEMS, make_scorer, journal, executor=executor, block_size=25, on_block=sizes.append
        )
        assert stats.scored == 179 and sorted(sizes) == [9, 10, 10] + [25] * 6
        for query in queries:
            exact = length_scores([(query, item) for item in ITEMS])
            if query == "bb":
                exact[3] = 123.0
            found = journal.known(journal.query_numbers([query])[0], journal.item_numbers(ITEMS))
            np.testing.assert_array_equal(found, exact)


def test_an_error_in_a_worker_arrives() -> None:
    journal = ScoreJournal(None, version="v")
    with pytest.raises(ScorerError, match="no model here"):
        score_blocks(["a"], ITEMS, make_broken_scorer, journal)
    with pytest.raises(TypeError, match="executor: an Executor"):
        score_blocks(["a"], ITEMS, make_scorer, journal, executor="threads")  # type: ignore[arg-type]


@pytest.fixture
def index() -> CrossEncoderIndex:
    items: list[Any] = [*ITEMS[:-1], {"text": "item 59", "source": "page 3"}]

    def score(pairs: Sequence[tuple[str, Any]]) -> list[float]:
        return [float((item if isinstance(item, str) else item["text"]).split()[1]) for _, item in pairs]

    return CrossEncoderIndex.build(items, CallableScorer(score, version="v"), queries=list("abcdef"), dense=True)


def test_a_lookup_gives_texts_metadata_and_scores(index: CrossEncoderIndex) -> None:
    text, metadata, score = Lookup(index, k=2, budget=30)("query")[0]
    assert (text, score) == ("item 59", 59.0)
    assert metadata == {"source": "page 3", "corpus_id": 59, "score": 59.0}


@pytest.mark.parametrize("kind", [ExactIndex, GraphIndex.build])
def test_an_index_of_embeddings_in_the_same_slot(kind: Any) -> None:
    index = kind(np.eye(4, dtype=np.float32))
    items = ["zero", {"text": "one", "source": "page 3"}, "two", "three"]
    lookup = VectorLookup(index, items, lambda texts: np.array([[0.1, 0.9, 0.5, 0.0]] * len(texts)), k=2)
    assert lookup("query") == [
        ("one", {"source": "page 3", "corpus_id": 1, "score": np.float32(0.9)}, np.float32(0.9)),
        ("two", {"corpus_id": 2, "score": 0.5}, 0.5),
    ]
    index.remove(np.array([1]))
    assert [text for text, _, _ in lookup("query")] == ["two", "zero"]
    assert len(VectorLookup(index, items, lambda texts: np.zeros((len(texts), 4)), k=9)("query")) == 3
    with pytest.raises(ValueError, match="items: one for each of 4 ids"):
        VectorLookup(index, items[:3], lambda texts: np.zeros((1, 4)))


def test_langchain_retrieves(index: CrossEncoderIndex) -> None:
    pytest.importorskip("langchain_core")
    documents = langchain_retriever(Lookup(index, k=2, budget=30)).invoke("query")
    assert [document.page_content for document in documents] == ["item 59", "item 58"]
    assert documents[0].metadata["source"] == "page 3"


def test_llama_index_retrieves(index: CrossEncoderIndex) -> None:
    pytest.importorskip("llama_index.core")
    nodes = llama_index_retriever(Lookup(index, k=2, budget=30)).retrieve("query")
    assert [(node.get_content(), node.score) for node in nodes] == [("item 59", 59.0), ("item 58", 58.0)]


def test_haystack_retrieves(index: CrossEncoderIndex) -> None:
    pytest.importorskip("haystack")
    documents = haystack_retriever(Lookup(index, k=2, budget=30)).run(query="query")["documents"]
    assert [(document.content, document.score) for document in documents] == [("item 59", 59.0), ("item 58", 58.0)]


def test_rank_is_upgraded_for_long_lists_only(index: CrossEncoderIndex) -> None:
    class Model:
        def rank(self, query: str, documents: Sequence[str], **options: Any) -> str:
            return "own"

    model: Any = Model()
    upgrade_rank(model, index, budget=30)
    assert model.rank("q", ITEMS[:30]) == "own" and model.rank("q", ITEMS, show_progress_bar=True) == "own"
    hits = model.rank("q", ITEMS[:59], top_k=2, return_documents=True)
    assert hits[0] == {"corpus_id": 58, "score": 58.0, "text": "item 58"} and len(hits) == 2
    del model.rank
    assert model.rank("q", ITEMS) == "own"
