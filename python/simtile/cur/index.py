"""An index over the items of an expensive scorer: built once from some of its scores, searched with few calls each."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.cur.buying import Shop
from simtile.cur.calls import CallStats
from simtile.cur.item_matrix import FactorDtype
from simtile.cur.journal import ScoreJournal
from simtile.cur.knowledge import Knowledge
from simtile.cur.lexical import LexicalEncoder, texts_of
from simtile.cur.planning import MethodName, Plan, plan_search
from simtile.cur.posterior import Choice, Posterior
from simtile.cur.results import Hit, SearchResults, best_hits
from simtile.cur.retrieval import Retrieval, RetrieverFunction
from simtile.cur.rounds import Scored, run_rounds
from simtile.cur.sampling import buy_sample
from simtile.cur.scorers import Scorer

__all__ = ["CrossEncoderIndex"]

Embeddings: TypeAlias = NDArray[np.floating]
Target: TypeAlias = Literal["raw", "centred"]


_LISTED = 1000
"""Length of the lists that a retriever function is asked for, to judge budgets up to that many calls."""


class CrossEncoderIndex:
    """Finds the items that a scorer likes best with a budget of scorer calls per query. See :meth:`build`."""

    def __init__(self, shop: Shop, retrieval: Retrieval, knowledge: Knowledge, queries: Sequence[Any]) -> None:
        self._shop, self._retrieval, self._knowledge = shop, retrieval, knowledge
        self._queries = list(queries)

    @classmethod
    def build(
        cls,
        items: Sequence[Any],
        scorer: Scorer,
        *,
        queries: Sequence[Any],
        query_embeddings: Embeddings | None = None,
        item_embeddings: Embeddings | None = None,
        lexical: bool = False,
        retriever: RetrieverFunction | None = None,
        dense: bool = False,
        calls_per_query: int = 128,
        rank: int = 64,
        dtype: FactorDtype = "float32",
        store: str | os.PathLike[str] | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> CrossEncoderIndex:
        """Score build queries with items and learn what the scorer likes.

        Parameters
        ----------
        items : sequence of N texts, arrays or JSON values
        scorer : Scorer
        queries : sequence of Q build queries, such as those that users asked
        query_embeddings, item_embeddings : array (Q, e), (N, e), optional      a dual encoder's, as its inner product
            ranks; both or neither
        lexical : bool      learn from the words of items and queries too, which then are texts, or mappings with a
            "text" (needs scikit-learn): :mod:`simtile.cur.lexical`
        retriever : callable (queries, k) -> ids (Q, k), or (scores, ids), optional
            Cheap first lists, padded with -1; by default the largest inner products of the embeddings, of the words, or
            their sum
        dense : bool      score every build query with every item (Q·N calls), as ANNCUR and ADACUR need; otherwise
            ``calls_per_query`` items each: some of the retriever's best, some drawn from the rest and, unless
            ``retriever`` is a function, in rounds those that the scores so far let expect the most of
        rank : int      number of item factors
        dtype : {"float32", "bfloat16", "int8"}      what factors and embeddings are rounded to, in files and in
            searches
        store : path, optional      journal of the scores: a build that died goes on from there
        seed : int      of the draws
        progress : bool      show a bar (needs tqdm)

        Raises
        ------
        TypeError, ValueError      naming the argument
        JournalError      `store` is damaged, in use, or another scorer's
        ScorerError      if the scorer fails for good
        """
        if not isinstance(scorer, Scorer):
            raise TypeError(f"scorer: a simtile.cur.Scorer, such as CallableScorer(fn), got {type(scorer).__name__}")
        if not len(items) or not len(queries):
            raise ValueError(f"items, queries: at least one each, got {len(items)} and {len(queries)}")
        for name, value in (("calls_per_query", calls_per_query), ("rank", rank)):
            if value < 1:
                raise ValueError(f"{name}: at least 1, got {value}")
        texts = texts_of("items", items) if lexical else []
        encoder = LexicalEncoder.fit(texts) if lexical else None
        words = None if encoder is None else encoder(texts)
        retrieval = Retrieval(len(items), item_embeddings, retriever, dtype, encoder, words)
        query_features = retrieval.query_features("query_embeddings", query_embeddings, queries, len(queries))
        shop = Shop(scorer, ScoreJournal(store, version=scorer.version), items)
        index = cls(shop, retrieval, Knowledge(rank, dtype, query_features), queries)
        everything = np.arange(len(items))
        if dense:
            index._buy_whole(everything, progress)
        else:
            index._buy_sample(everything, calls_per_query, seed=seed, in_rounds=True, progress=progress)
        index.refit()
        return index

    def __len__(self) -> int:
        """The number of items that can be found."""
        return int(self._retrieval.allowed.sum())

    def __enter__(self) -> CrossEncoderIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the journal's file, if there is one; searches go on, unless they are to keep scores."""
        self._shop.journal.close()

    def __repr__(self) -> str:
        kind = "dense" if self._knowledge.scores.is_dense else "sparse"
        return f"CrossEncoderIndex({len(self):,} items, {len(self._queries):,} build queries, {kind} scores)"

    @property
    def stats(self) -> CallStats:
        """All calls of the scorer since this object was made."""
        return self._shop.stats

    def item(self, corpus_id: int) -> Any:
        """The item with this id."""
        return self._shop.items[corpus_id]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The item vectors (N, D) that "auto" searches by inner product: for any vector database."""
        return self._knowledge.features(self._retrieval).vectors

    @property
    def item_means(self) -> NDArray[np.float64]:
        """Means (N,) over the build queries, around 0: how much of a hub each item is."""
        return self._knowledge.learned.mean

    def query_vectors(
        self, query_embeddings: Embeddings | None = None, *, queries: Sequence[Any] | None = None
    ) -> NDArray[np.float32]:
        """What to search :attr:`vectors` with for the first round of M queries, (M, D): the prior, before any score.

        Parameters
        ----------
        query_embeddings : array (M, e)      if the index was built with embeddings
        queries : sequence of M texts      if it was built with ``lexical=True``
        """
        n = len(query_embeddings) if query_embeddings is not None else len(queries or ())
        rows = self._retrieval.query_features("query_embeddings", query_embeddings, queries, n)
        features = self._knowledge.features(self._retrieval)
        prior = Posterior(features, self._knowledge.learned, rows, n, Choice(), False)
        return np.asarray(prior.first, np.float32)

    def search(
        self,
        queries: Sequence[Any],
        k: int,
        *,
        budget: int,
        method: MethodName = "auto",
        target: Target = "raw",
        rounds: int | None = None,
        ridge: float | None = None,
        query_embeddings: Embeddings | None = None,
        filter: NDArray[Any] | None = None,
        stop_early: bool = False,
        deadline: float | None = None,
        keep: bool = False,
        seed: int = 0,
    ) -> SearchResults:
        """The best items found for each query with ``budget`` scorer calls each.

        Parameters
        ----------
        queries : sequence of M queries
        k : int      hits per query, at most ``budget``
        budget : int      scorer calls per query; scores that the journal knows count as calls, though they are not made
        method : {"auto", "rerank", "anncur", "adacur", "axn"}
            "auto" is :mod:`simtile.cur.posterior` with hyper-parameters chosen on the build queries, or "rerank" if
            these do not support it; "anncur" and "adacur" need a dense index
        target : {"raw", "centred"}      "centred" ranks by the score minus the item's mean over the build queries: what
            is liked for this query, not for every query. Returned scores are the scorer's own
        rounds : int, optional      by default one for 16 calls, from 4 to 12 ("auto"); 5 ("adacur", "axn")
        ridge : float, optional      of "anncur", "adacur" (0: the papers' pseudo-inverse) and "axn"
        query_embeddings : array (M, e)      needed if the index was built with embeddings
        filter : bool (N,) or ids, optional      the items that may be returned
        stop_early : bool      "auto" stops asking about a query when no other item is likely to enter its top k
        deadline : float, optional      seconds after which no further call of the scorer is begun
        keep : bool      journal the scores, so that `refit` learns from these queries too if they are build queries
        seed : int      of random anchors

        Returns
        -------
        SearchResults      a list per query of ``{"corpus_id", "score"}``, best first, equal scores by id; shorter than
            k where calls failed or the deadline came. Every score is the scorer's own answer

        Raises
        ------
        TypeError, ValueError      naming the argument
        ScorerError      if not one call of the whole search gave a score
        """
        start = time.monotonic()
        allowed = self._retrieval.allowed_by(filter)
        stats = CallStats()
        plan = self.plan(
            queries, k, budget=budget, method=method, target=target, rounds=rounds, ridge=ridge,
            query_embeddings=query_embeddings, filter=allowed, seed=seed,
        )  # fmt: skip
        if not len(queries):
            return SearchResults([], stats)
        scored, exact = self._run(
            plan,
            queries,
            allowed,
            k if stop_early else None,
            None if deadline is None else start + deadline,
            keep,
            stats,
        )
        return SearchResults(best_hits(scored, exact, k), stats)

    def plan(
        self,
        queries: Sequence[Any],
        k: int,
        *,
        budget: int,
        method: MethodName = "auto",
        target: Target = "raw",
        rounds: int | None = None,
        ridge: float | None = None,
        query_embeddings: Embeddings | None = None,
        filter: NDArray[Any] | None = None,
        seed: int = 0,
    ) -> Plan:
        """What :meth:`search` with these arguments would do: first lists, vectors, calls a round. Calls no scorer."""
        if isinstance(queries, str):
            raise TypeError("queries: a sequence of queries, got one text")
        if not 1 <= k <= budget:
            raise ValueError(f"k, budget: 1 <= k <= budget, got {k} and {budget}")
        if target not in ("raw", "centred"):
            raise ValueError(f'target: "raw" or "centred", got {target!r}')
        features = self._retrieval.query_features("query_embeddings", query_embeddings, queries, len(queries))
        return plan_search(
            method, self._retrieval, self._knowledge, queries, features,
            k=k, budget=budget, centred=target == "centred", rounds=rounds, ridge=ridge,
            allowed=self._retrieval.allowed_by(filter), seed=seed,
        )  # fmt: skip

    def rank(
        self,
        query: Any,
        documents: Sequence[Any],
        *,
        top_k: int | None = None,
        budget: int | None = None,
        query_embedding: Embeddings | None = None,
        return_documents: bool = False,
    ) -> list[Hit]:
        """Rank documents for a query, as sentence-transformers' ``CrossEncoder.rank`` does, with at most ``budget``
        calls.

        Parameters
        ----------
        query : object
        documents : sequence      those that the index knows are searched, others are scored first, in order
        top_k : int, optional      by default everything that was scored
        budget : int, optional      by default all documents are scored
        query_embedding : array (e,), optional      without it the choice among known documents is by popularity and,
            with ``lexical=True``, words
        return_documents : bool      add ``"text"``

        Returns
        -------
        list of ``{"corpus_id", "score"}``, best first; ``corpus_id`` is the place in ``documents``
        """
        budget = len(documents) if budget is None else min(budget, len(documents))
        if budget < 1:
            return []
        ids = self._shop.find(documents)
        unknown = np.flatnonzero(ids < 0)[:budget]
        places, scores = unknown, self._shop.score_now(query, [documents[i] for i in unknown])
        known = np.unique(ids[ids >= 0])
        left = min(budget - len(unknown), len(known))
        if left:
            rows = self._retrieval.features_of(query, query_embedding, self._knowledge.learned.query_mean)
            plan = plan_search(
                "auto", self._retrieval, self._knowledge, [query], rows, k=left, budget=left, allowed=self._mask(known)
            )
            _, exact = self._run(plan, [query], self._mask(known), None, None, False, CallStats())
            found = {item: score for (_, item), score in exact.items()}
            at = np.array([i for i, item in enumerate(ids.tolist()) if item in found], np.int64)
            places = np.concatenate([places, at])
            scores = np.concatenate([scores, [found[ids[i]] for i in at]])
        order = np.lexsort((places, -scores))[: int(np.isfinite(scores).sum())][:top_k]
        hits: list[Hit] = [{"corpus_id": int(places[i]), "score": float(scores[i])} for i in order]
        if return_documents:
            for hit in hits:
                hit["text"] = documents[hit["corpus_id"]]
        return hits

    def add(
        self, items: Sequence[Any], *, item_embeddings: Embeddings | None = None, calls_per_item: int | None = None
    ) -> NDArray[np.int64]:
        """Add items and learn again; returns their ids, which follow the last one. Words count as at the build.

        Parameters
        ----------
        items : sequence
        item_embeddings : array (len(items), e)      if the index was built with embeddings
        calls_per_item : int, optional      build queries that score each item: by default all of them in a dense index
            and none otherwise, where the features alone place an item until it is scored
        """
        first = len(self._shop.items)
        self._retrieval.add(items, item_embeddings)
        ids = np.arange(first, first + len(items))
        self._shop.add(items)
        if self._knowledge.scores.is_dense and calls_per_item is None:
            self._buy_whole(ids, False)
        elif calls_per_item:
            calls = -(-calls_per_item * len(items) // len(self._queries))
            self._buy_sample(ids, calls, seed=0, in_rounds=False, progress=False)
        self.refit()
        return ids

    def remove(self, ids: Sequence[int] | NDArray[np.int64]) -> None:
        """Take items out of all later results; the ids of the others stay. Raises ValueError for ids that are not
        there."""
        self._retrieval.remove(np.asarray(ids, np.int64))

    def refit(self) -> None:
        """Learn from all journaled scores of the build queries."""
        numbers = self._shop.journal.query_numbers(self._queries)
        self._knowledge.refit(self._shop.rows_of(numbers), self._retrieval)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the scorer and the retriever into a folder. Items and queries must be JSON values."""
        from simtile.cur.saving import save

        save(Path(path), self._shop, self._retrieval, self._knowledge, self._queries)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], scorer: Scorer, *, retriever: RetrieverFunction | None = None
    ) -> CrossEncoderIndex:
        """Read an index that `save` wrote. Scores kept from then on are in memory, until the next `save`.

        Raises
        ------
        JournalError, ValueError      a file is damaged, or the scorer's version is another
        """
        from simtile.cur.saving import load

        return cls(*load(Path(path), scorer, retriever))

    def _run(
        self, plan: Plan, queries: Sequence[Any], allowed: NDArray[np.bool_], settled_k: int | None,
        deadline: float | None, keep: bool, stats: CallStats,
    ) -> tuple[Scored, dict[tuple[int, int], float]]:  # fmt: skip
        """All rounds in the units of the plan's target, and {(query, item): the scorer's own score}."""
        exact: dict[tuple[int, int], float] = {}

        def buy(which: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
            chosen = [queries[i] for i in which]
            scores = self._shop.buy(chosen, ids, keep=keep, deadline=deadline, stats=stats)
            for query, its_ids, its_scores in zip(which.tolist(), ids.tolist(), scores.tolist(), strict=True):
                exact.update(((query, item), score) for item, score in zip(its_ids, its_scores, strict=True))
            return scores - plan.offset[ids]

        return run_rounds(plan.method, plan.sizes, buy, allowed=allowed, settled_k=settled_k), exact

    def _buy_whole(self, candidates: NDArray[np.int64], progress: bool) -> None:
        """Score build queries with all candidates."""
        if self._retrieval.function is not None:
            lists = self._retrieval.lists(self._queries, None, _LISTED)
            self._knowledge.listed = [row[row >= 0] for row in lists]
        self._shop.buy_all(self._queries, [candidates] * len(self._queries), progress=progress)

    def _buy_sample(
        self, candidates: NDArray[np.int64], calls: int, *, seed: int, in_rounds: bool, progress: bool
    ) -> None:
        """Score build queries with ``calls`` candidates each."""
        buy_sample(
            self._shop, self._queries, self._knowledge, self._retrieval, candidates, calls,
            seed=seed, in_rounds=in_rounds, progress=progress,
        )  # fmt: skip

    def _mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self._shop.items), np.bool_)
        mask[ids] = True
        return mask
