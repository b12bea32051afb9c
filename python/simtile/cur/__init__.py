"""Cross-encoder nearest neighbours with few calls: the items that an expensive scorer likes best, for a budget.

    index = CrossEncoderIndex.build(items, scorer, queries=past_queries, query_embeddings=…, item_embeddings=…)
    hits = index.search(queries, 10, budget=100, query_embeddings=…)

Reranking can only reorder what a retriever found. These methods learn from a query's first scores which other items are
worth a call: ANNCUR, ADACUR, AXN as published, and "auto" (:mod:`simtile.cur.posterior`). NumPy alone; torch is never
imported here.
"""

from simtile.cur.calls import CallStats
from simtile.cur.cross_encoders import OnnxScorer, SentenceTransformersScorer, TransformersScorer, YesNoScorer
from simtile.cur.errors import BatchRejectedError, JournalError, ScoreCountError, ScorerError, TransientScorerError
from simtile.cur.evaluation import Report, evaluate
from simtile.cur.http_reranker import HTTPRerankScorer
from simtile.cur.index import CrossEncoderIndex
from simtile.cur.journal import ScoreJournal
from simtile.cur.maxsim import MaxSimScorer
from simtile.cur.results import SearchResults
from simtile.cur.scorers import CallableScorer, Limits, Scorer

__all__ = [
    "BatchRejectedError",
    "CallStats",
    "CallableScorer",
    "CrossEncoderIndex",
    "HTTPRerankScorer",
    "JournalError",
    "Limits",
    "MaxSimScorer",
    "OnnxScorer",
    "Report",
    "ScoreCountError",
    "ScoreJournal",
    "Scorer",
    "ScorerError",
    "SearchResults",
    "SentenceTransformersScorer",
    "TransformersScorer",
    "TransientScorerError",
    "YesNoScorer",
    "evaluate",
]
