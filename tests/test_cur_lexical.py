"""Words as features of an index: what they encode, what they find, what is kept, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simtile.cur import CallableScorer, CrossEncoderIndex, Limits
from simtile.cur.learned import BuildScores, learn

pytest.importorskip("sklearn")

from simtile.cur.lexical import LexicalEncoder

Q, M, N = 40, 16, 500


class Words:
    """Texts of made-up words; a scorer that counts the words a query and an item share, and is kinder to some items."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        vocabulary = ["".join(rng.choice(letters, 6)) for _ in range(200)]
        self.items = [" ".join(rng.choice(vocabulary, 12)) for _ in range(N)]
        self.queries = [" ".join(rng.choice(vocabulary, 6)) for _ in range(Q + M)]
        self.embeddings = [rng.normal(size=(size, 8)).astype(np.float32) for size in (Q + M, N)]
        self.bonus = dict(zip(self.items, rng.normal(size=N), strict=True))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [len(set(query.split()) & set(item.split())) + self.bonus[item] for query, item in pairs]

    def scorer(self) -> CallableScorer:
        return CallableScorer(self.score, version="words", limits=Limits(batch_size=4096))

    def build(self, embedded: bool = False, **options: Any) -> CrossEncoderIndex:
        if embedded:
            options |= {"query_embeddings": self.embeddings[0][:Q], "item_embeddings": self.embeddings[1]}
        return CrossEncoderIndex.build(self.items, self.scorer(), queries=self.queries[:Q], **options)

    def recall(self, index: CrossEncoderIndex, **options: Any) -> float:
        hits = index.search(self.queries[Q:], 10, budget=40, **options)
        exact = [self.score([(query, item) for item in self.items]) for query in self.queries[Q:]]
        best = np.argsort(-np.array(exact), axis=1, kind="stable")[:, :10]
        found = [[hit["corpus_id"] for hit in its] for its in hits]
        return float(np.mean([np.isin(row, its).mean() for row, its in zip(best, found, strict=True)]))


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.fixture(scope="module")
def both(words: Words) -> CrossEncoderIndex:
    return words.build(embedded=True, lexical=True, calls_per_query=50)


def test_products_of_rows_are_cosines_of_term_vectors() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["sort the rows of a table", "sort columns", "draw a graph of nodes", "count nodes", "sort the rows"]
    encoder = LexicalEncoder.fit(texts)
    rows = encoder(texts)
    term = TfidfVectorizer(sublinear_tf=True, token_pattern=r"[^\W_]+").fit_transform(texts)
    trigram = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 3)).fit_transform(texts)
    wanted = 0.5 * (term @ term.T + trigram @ trigram.T).toarray()
    np.testing.assert_allclose(rows @ rows.T, wanted, atol=1e-6)


def test_names_in_code_are_made_of_words() -> None:
    encoder = LexicalEncoder.fit(["minSamplesSplit", "draw a graph", "count nodes"])
    camel, snake, spaced, none = encoder(["minSamplesSplit", "min_samples_split", "min samples split", "-- ++"])
    np.testing.assert_array_equal(camel, snake)
    np.testing.assert_array_equal(camel, spaced)
    assert not none.any()
    np.testing.assert_allclose(camel @ camel, 1.0, atol=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_words_find_what_embeddings_miss(words: Words, both: CrossEncoderIndex, dense: bool) -> None:
    embeddings = words.embeddings[0][Q:]
    index = words.build(embedded=True, lexical=True, dense=True) if dense else both
    without = words.build(embedded=True, dense=dense, calls_per_query=50)
    found = words.recall(index, query_embeddings=embeddings)
    assert found > words.recall(without, query_embeddings=embeddings) + 0.2
    assert found > words.recall(index, query_embeddings=embeddings, method="rerank") + 0.1


def test_words_alone_are_enough(words: Words) -> None:
    index = words.build(lexical=True, calls_per_query=50)
    assert words.recall(index) > 0.8
    query, documents = words.queries[Q], words.items[:200]
    scores = np.array(words.score([(query, item) for item in documents]))
    ranked = index.rank(query, documents, top_k=5, budget=60)
    assert ranked[0]["score"] == scores.max()
    prior = index.query_vectors(queries=[query]) @ index.vectors.T
    assert np.corrcoef(prior[0, :200], scores)[0, 1] > 0.5


def test_rank_follows_the_words_of_a_query_without_embedding(words: Words, both: CrossEncoderIndex) -> None:
    found = 0
    for query in words.queries[Q:]:
        exact = max(words.score([(query, item) for item in words.items]))
        found += both.rank(query, words.items, top_k=1, budget=60)[0]["score"] == exact
    assert found >= 12
    assert both.search([], 1, budget=2, query_embeddings=np.empty((0, 8), np.float32)) == []


def test_kinds_of_features_have_weights_of_their_own() -> None:
    rng = np.random.default_rng(1)
    queries, items = rng.normal(size=(60, 12)), rng.normal(size=(300, 12))
    gamma = np.repeat([0.5, 3.0], [8, 4])
    scores = (gamma * (queries - queries.mean(axis=0))) @ items.T + rng.normal(size=300)
    ids = [np.sort(rng.choice(300, 60, replace=False)) for _ in range(60)]
    whole = BuildScores([np.arange(300)] * 60, list(scores), 300)
    sparse = BuildScores(ids, [row[its] for row, its in zip(scores, ids, strict=True)], 300)
    for sample, tolerance in ((whole, 1e-6), (sparse, 0.05)):
        learned = learn(sample, 4, queries=queries, items=items, widths=(8, 4))
        np.testing.assert_allclose(learned.weights, gamma, rtol=tolerance)
        centred = learned.weights * (queries - queries.mean(axis=0))
        for kind in (slice(0, 8), slice(8, 12)):
            np.testing.assert_allclose(learned.weight_variance[kind], (centred[:, kind] ** 2).mean())


def test_an_item_without_scores_gets_the_mean_that_its_features_foretell() -> None:
    rng = np.random.default_rng(2)
    queries, items = rng.normal(size=(80, 4)), rng.normal(size=(400, 4))
    means = items @ np.array([2.0, -1.0, 0.0, 0.0])
    scores = means + 0.3 * rng.normal(size=(80, 400))
    ids = [np.sort(rng.choice(300, 40, replace=False)) for _ in range(80)]  # never one of the last hundred
    sample = BuildScores(ids, [row[its] for row, its in zip(scores, ids, strict=True)], 400)
    learned = learn(sample, 2, queries=queries, items=items)
    assert np.corrcoef(learned.mean[300:], means[300:])[0, 1] > 0.95
    alone = learn(sample, 2, queries=None, items=None)
    assert not alone.mean[300:].any() and np.corrcoef(alone.mean[:300], means[:300])[0, 1] > 0.95


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_loaded_index_finds_the_same(words: Words, tmp_path: Path, dtype: str) -> None:
    index = words.build(lexical=True, calls_per_query=30, dtype=dtype)
    index.save(tmp_path / "index")
    again = CrossEncoderIndex.load(tmp_path / "index", words.scorer())
    before, after = (i.search(words.queries[Q:], 5, budget=20) for i in (index, again))
    assert before == after


def test_added_items_are_found_by_their_words(words: Words) -> None:
    index = CrossEncoderIndex.build(
        words.items[:400], words.scorer(), queries=words.queries[:Q], lexical=True, calls_per_query=40
    )
    ids = index.add(words.items[400:])
    assert ids.tolist() == list(range(400, N)) and len(index) == N
    assert words.recall(index) > 0.6


def test_what_is_not_text_is_refused(words: Words, both: CrossEncoderIndex) -> None:
    with pytest.raises(TypeError, match=r"items: .*lexical.* got 3 at 0"):
        CrossEncoderIndex.build([3], words.scorer(), queries=["a"], lexical=True)
    with pytest.raises(TypeError, match=r"queries: .*got 7 at 1"):
        both.search(["a", 7], 1, budget=2, query_embeddings=words.embeddings[0][:2])
    with pytest.raises(ValueError, match=r"items: .*a word"):
        CrossEncoderIndex.build(["", " "], words.scorer(), queries=["a"], lexical=True)
    with pytest.raises(ValueError, match="query_embeddings: an array"):
        both.search(["a"], 1, budget=2)
    with pytest.raises(ValueError, match="queries: their texts"):
        both.query_vectors(words.embeddings[0][:2])


def test_without_scikit_learn_the_line_to_install_is_named(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"simtile\[sklearn\]\""):
        words.build(lexical=True)
