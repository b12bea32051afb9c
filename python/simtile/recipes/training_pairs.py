"""Recipes on the docstrings of the standard library: which pairs train a retriever, which words go together."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from simtile.corpus import resample_test, resample_train
from simtile.demo.model import StaticEncoder, minilm_word_table
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import CodePairs
from simtile.search import ExactIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

K = 10


def interpolation(*, max_pairs: int, top_k: int, ridge: float, buckets: int, seed: int) -> Outcome:
    """A linear map of queries, fitted to pairs near the test queries, and to as many that are near none.

    It has a solution in closed form, pulled towards the identity by ``ridge``: what the encoder does without training.
    """
    task = CodePairs(max_pairs=max_pairs)
    encoder = StaticEncoder(minilm_word_table())
    texts = (task.train_query, task.train_code, task.test_query, task.test_code)
    query, code, asked, wanted = (np.asarray(encoder.encode(side), dtype=np.float64) for side in texts)
    query, code = _unit(query), _unit(code)
    index = ExactIndex(wanted, metric="cosine")

    def recall(rows: Ids, tests: Ids) -> float:
        """recall@10 of some test queries, trained on some pairs."""
        own = ridge * np.eye(query.shape[1])
        learnt = np.linalg.solve(query[rows].T @ query[rows] + own, query[rows].T @ code[rows] + own)
        _, ids = index.search(_unit(asked[tests]) @ learnt, K)
        return float((ids == tests[:, None]).any(axis=1).mean())

    everything = np.arange(len(asked))
    sets = resample_train(query, asked, top_k=top_k, seed=seed)
    folds = [fold for fold in resample_test(query, asked, buckets=buckets, seed=seed) if len(fold.extrapolation)]
    table = {
        "pairs of each training set": float(len(sets.interpolation)),
        "recall@10 without training": recall(np.empty(0, np.int64), everything),
        "recall@10 of all pairs": recall(np.arange(len(query)), everything),
        "ReSTTest, interpolation": float(np.mean([recall(fold.train, fold.interpolation) for fold in folds])),
        "ReSTTest, extrapolation": float(np.mean([recall(fold.train, fold.extrapolation) for fold in folds])),
    }
    return Outcome(recall(sets.interpolation, everything), recall(sets.extrapolation, everything), table)


def ppmi(*, max_pairs: int, words: int, dim: int, k: int, share: float, seed: int) -> Outcome:
    """Words by what they occur with: positive pointwise mutual information, its singular vectors, an index of them."""
    pairs = CodePairs(max_pairs=max_pairs).corpus.train
    drawn = np.random.default_rng(seed).permutation(len(pairs))[: round(share * len(pairs))]
    texts = [set(re.findall("[a-z]+", pairs[place].query.lower())) for place in drawn]
    counts = Counter(word for text in texts for word in sorted(text))
    place = {word: i for i, (word, _) in enumerate(counts.most_common(words))}
    bags = np.zeros((len(texts), len(place)), np.float32)
    for row, text in zip(bags, texts, strict=True):
        row[[place[word] for word in text if word in place]] = 1.0
    together = (bags.T @ bags).astype(np.float64)
    np.fill_diagonal(together, 0.0)
    alone = together.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(together * together.sum() / (alone[:, None] * alone))
    left, values, _ = np.linalg.svd(np.where(information > 0, information, 0.0), hermitian=True)
    plurals = np.array([(place[word], place[word + "s"]) for word in place if word + "s" in place])

    def found(vectors: NDArray[np.float64]) -> float:
        _, ids = ExactIndex(vectors, metric="cosine").search(vectors[plurals[:, 0]], k + 1)  # each finds itself, too
        return float((ids == plurals[:, 1:]).any(axis=1).mean())

    table = {"words": float(len(place)), "words with a plural": float(len(plurals)), "by chance": k / len(place)}
    return Outcome(found(left[:, :dim] * np.sqrt(values[:dim])), found(together), table)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
