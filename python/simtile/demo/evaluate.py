"""Retrieval quality and hubness of embeddings, by exact search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simtile.search import ExactIndex

TOP_K = 10


@dataclass(frozen=True)
class Retrieval:
    """How well queries find their codes, and how evenly the codes are found.

    Attributes
    ----------
    recall_at_1, recall_at_10, mrr_at_10 : float
        Share of queries whose own code is first, or among the first ten; mean reciprocal rank, zero past ten.
    hubness_skew : float
        Skewness of the k-occurrence N_10, the number of top-10 lists that a code is in [1].
    largest_hub : int
        The largest N_10.
    anti_hub_share : float
        Share of codes that are in no top-10 list.
    k_occurrence : int64 (N,)
    ids : int64 (N, 10)
        The ten nearest codes of each query.

    [1] Radovanović, Nanopoulos & Ivanović 2010, JMLR 11:2487.
    """

    recall_at_1: float
    recall_at_10: float
    mrr_at_10: float
    hubness_skew: float
    largest_hub: int
    anti_hub_share: float
    k_occurrence: NDArray[np.int64]
    ids: NDArray[np.int64]

    def figures(self) -> dict[str, float]:
        """The numbers alone, for JSON."""
        arrays = {"k_occurrence", "ids"}
        return {name: value for name, value in vars(self).items() if name not in arrays}


def evaluate(queries: NDArray[np.float32], codes: NDArray[np.float32]) -> Retrieval:
    """Search every query among all codes by cosine; code i is the right answer to query i.

    Parameters
    ----------
    queries, codes : float32 (N, D), N >= 1
    """
    top_k = min(TOP_K, len(codes))
    _, ids = ExactIndex(codes, metric="cosine").search(queries, top_k)
    return retrieval_of(np.asarray(ids, dtype=np.int64))


def retrieval_of(ids: NDArray[np.int64]) -> Retrieval:
    """The metrics of ranked ids (N, k <= 10), where id i is the right answer to row i of N."""
    n = len(ids)
    is_own = ids == np.arange(n)[:, None]
    reciprocal_rank = (is_own / np.arange(1, ids.shape[1] + 1)).sum(axis=1)
    k_occurrence = np.bincount(ids[ids >= 0], minlength=n)
    return Retrieval(
        recall_at_1=float(is_own[:, 0].mean()),
        recall_at_10=float(is_own.any(axis=1).mean()),
        mrr_at_10=float(reciprocal_rank.mean()),
        hubness_skew=skewness(k_occurrence),
        largest_hub=int(k_occurrence.max()),
        anti_hub_share=float((k_occurrence == 0).mean()),
        k_occurrence=k_occurrence,
        ids=ids,
    )


def skewness(values: NDArray[np.int64]) -> float:
    """Third standardised moment; zero where all values are equal."""
    centred = values - values.mean()
    variance = (centred**2).mean()
    return float((centred**3).mean() / variance**1.5) if variance > 0 else 0.0
