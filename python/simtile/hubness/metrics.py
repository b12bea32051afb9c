"""How much hubness lists of neighbours show, and how well they find what is right; both exact, from streams of lists.

N_k(j), the k-occurrence, is the number of queries' k best that item j is among. A few items with a huge N_k (hubs) and
many with none (anti-hubs) are what high-dimensional similarity brings [1].

[1] Radovanović, Nanopoulos & Ivanović 2010, JMLR 11:2487. [2] Feldbauer & Flexer 2019, Knowl. Inf. Syst. 59:137.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]
Ties: TypeAlias = Literal["middle", "best", "worst"]


@dataclass(frozen=True)
class HubnessReport:
    """Figures of N_k over n_gallery items.

    Attributes
    ----------
    k_occurrence : int64 (n_gallery,)      N_k
    k, n_queries : int
    skewness : float      third standardised moment of N_k; 0 where all are equal
    truncated_skewness : float      E[Z³] of a standard normal cut at N_k = 0, with the mean and deviation of N_k: large
        where N_k spreads far beyond what a symmetric law on [0, ∞) could [2]
    robin_hood : float      share of all list places that would have to move for every item to have the same
    gini : float      0: all alike, 1: one item has all
    atkinson : float      inequality with aversion 1/2, sensitive to anti-hubs
    hub_occurrence : float      share of list places that hubs (N_k > 2k) take
    anti_hub_occurrence : float      share of items in no list
    groupie_ratio : float      share of the queries that have the largest hub in their list
    largest_hub : int      the largest N_k
    """

    k_occurrence: NDArray[np.int64]
    k: int
    n_queries: int
    skewness: float
    truncated_skewness: float
    robin_hood: float
    gini: float
    atkinson: float
    hub_occurrence: float
    anti_hub_occurrence: float
    groupie_ratio: float
    largest_hub: int

    def figures(self) -> dict[str, float]:
        """All but the counts."""
        return {name: value for name, value in vars(self).items() if name != "k_occurrence"}


class OccurrenceCounter:
    """Counts N_k over lists that come in parts, in any order.

    Examples
    --------
    >>> counter = OccurrenceCounter(3)
    >>> counter.update(np.array([[0, 1], [0, 2]]))
    >>> counter.report().k_occurrence
    array([2, 1, 1])
    """

    def __init__(self, n_gallery: int) -> None:
        self.k_occurrence = np.zeros(n_gallery, np.int64)
        self.n_queries = 0
        self.k = 0

    def update(self, ids: Any) -> None:
        """Count further lists (M, k), -1 for padding; ValueError for ids beyond the gallery or another k."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"ids: integers (M, k), got {ids.dtype} of shape {ids.shape}")
        if self.n_queries and ids.shape[1] != self.k:
            raise ValueError(f"ids: lists of {self.k} as before, got {ids.shape[1]}")
        n = len(self.k_occurrence)
        if ids.size and not (ids.min() >= -1 and ids.max() < n):
            raise ValueError(f"ids: -1 or 0..{n - 1}, got {ids.min()}..{ids.max()}")
        self.k = ids.shape[1]
        self.n_queries += len(ids)
        self.k_occurrence += np.bincount(ids[ids >= 0].ravel(), minlength=n)

    def report(self) -> HubnessReport:
        """The figures of what has been counted."""
        counts = self.k_occurrence
        places = int(counts.sum())
        mean = counts.mean() if len(counts) else 0.0
        hubs = counts > 2 * self.k
        return HubnessReport(
            k_occurrence=counts.copy(),
            k=self.k,
            n_queries=self.n_queries,
            skewness=skewness(counts),
            truncated_skewness=truncated_skewness(counts),
            robin_hood=float(np.abs(counts - mean).sum() / (2 * places)) if places else 0.0,
            gini=gini(counts),
            atkinson=float(1 - np.sqrt(counts).mean() ** 2 / mean) if places else 0.0,
            hub_occurrence=float(counts[hubs].sum() / places) if places else 0.0,
            anti_hub_occurrence=float((counts == 0).mean()) if len(counts) else 0.0,
            groupie_ratio=float(counts.max() / self.n_queries) if self.n_queries and len(counts) else 0.0,
            largest_hub=int(counts.max(initial=0)),
        )


def hubness_report(ids: Any, n_gallery: int) -> HubnessReport:
    """The figures of lists (M, k) of positions in a gallery, -1 for padding.

    Examples
    --------
    >>> hubness_report(np.array([[0], [0], [1]]), 3).largest_hub
    2
    """
    counter = OccurrenceCounter(n_gallery)
    counter.update(ids)
    return counter.report()


def skewness(counts: NDArray[np.int64]) -> float:
    """Third standardised moment; 0 where all values are equal."""
    off = counts - counts.mean() if len(counts) else np.zeros(1)
    variance = (off**2).mean()
    return float((off**3).mean() / variance**1.5) if variance > 0 else 0.0


def truncated_skewness(counts: NDArray[np.int64]) -> float:
    """(a² + 2) φ(a) / (1 - Φ(a)) with a = -mean / deviation: the third moment of a standard normal cut below a."""
    if len(counts) < 2 or counts.std() == 0:
        return 0.0
    a = -counts.mean() / counts.std(ddof=1)
    density = math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    return float((a**2 + 2) * density / (0.5 * math.erfc(a / math.sqrt(2))))


def gini(counts: NDArray[np.int64]) -> float:
    """Gini's coefficient: twice the area between the Lorenz curve and the diagonal."""
    total, n = counts.sum(), len(counts)
    if total == 0:
        return 0.0
    rank = np.arange(1, n + 1)
    return float((2 * rank - n - 1) @ np.sort(counts) / (n * total))


@dataclass(frozen=True)
class RetrievalReport:
    """Recall at several k, mean reciprocal rank and median rank over queries with one right item each."""

    recall_at: dict[int, float]
    mrr: float
    median_rank: float


def retrieval_report(ranks: Any, ks: Sequence[int] = (1, 5, 10)) -> RetrievalReport:
    """From the ranks (M,) of the right items, starting at 1; inf where the right item was not found.

    Examples
    --------
    >>> retrieval_report(np.array([1, 4]), ks=(1,)).mrr
    0.625
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    if ranks.ndim != 1 or not (ranks >= 1).all():
        raise ValueError("ranks: (M,) of at least 1")
    if not len(ranks):
        raise ValueError("ranks: at least one, got none")
    return RetrievalReport(
        recall_at={int(k): float((ranks <= k).mean()) for k in ks},
        mrr=float((1 / ranks).mean()),
        median_rank=float(np.median(ranks)),
    )


def ranks_in_lists(ids: Any, ground_truth: Any) -> Float:
    """(M,) at which place of its list (M, k) each query has its right item, from 1; inf where it has not."""
    ids, truth = np.asarray(ids), np.asarray(ground_truth)
    if ids.ndim != 2 or truth.shape != (len(ids),):
        raise ValueError(f"ids, ground_truth: shapes (M, k) and (M,), got {ids.shape} and {truth.shape}")
    own = ids == truth[:, None]
    return np.where(own.any(axis=1), own.argmax(axis=1) + 1.0, np.inf)


def ranks(above: Any, equal: Any, ties: Ties = "middle") -> Float:
    """(M,) ranks, from 1, of items that ``above`` others beat and ``equal`` others tie with.

    ``ties``: the place in the middle of the equals (what a random order gives on average), the best, or the worst.
    :func:`simtile.functional.in_batch_rank` and ``pair_rank`` of the engine count them without the scores.
    """
    if ties not in ("middle", "best", "worst"):
        raise ValueError(f"ties: 'middle', 'best' or 'worst', got {ties!r}")
    share = {"middle": 0.5, "best": 0.0, "worst": 1.0}[ties]
    return np.asarray(1.0 + np.asarray(above) + share * np.asarray(equal), np.float64)
