"""What the scores of the build queries teach about the items.

    s[q, i] = b_q + m_i + γ <e_q − ē, f_i> + u_q · v_i + noise

m is the item mean (a hub's is high), <e_q − ē, f_i> the dual encoder's score with the mean over queries taken out, and
v the factors of what remains; u is foreseen from e_q − ē (:mod:`simtile.cur.foresee`). With whole rows the means are
exact and v comes from a singular value decomposition; with sparse scores b, m and γ are fitted in turns and v by
alternating least squares.

[1] Tipping & Bishop 1999, "Probabilistic principal component analysis", eq. 7 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simtile.cur.factorize import SparseScores, alternating_least_squares, singular_factors
from simtile.cur.foresee import foresee

__all__ = ["BuildScores", "Learned", "learn"]

Floats = NDArray[np.float64]

ROUNDS_OF_MEANS = 15
MEAN_SHRINKAGE = 2.0
"""Scores' worth of prior, at 0, of an item's mean: an item seen once is hardly a hub."""


@dataclass(frozen=True)
class BuildScores:
    """The scores of the build queries: ``ids[q]`` ascending and ``values[q]``, over ``n`` items."""

    ids: Sequence[NDArray[np.int64]]
    values: Sequence[Floats]
    n: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_dense(self) -> bool:
        """Whether rows are whole, but for at most one score in twenty that the scorer failed to give."""
        return len(self) > 0 and sum(len(ids) for ids in self.ids) >= 0.95 * len(self) * self.n

    def select(self, rows: NDArray[np.int64]) -> BuildScores:
        return BuildScores([self.ids[q] for q in rows], [self.values[q] for q in rows], self.n)

    def sparse(self, offset: Floats | None = None) -> SparseScores:
        """All known scores, less an offset (n,) of their items."""
        rows = np.repeat(np.arange(len(self)), [len(ids) for ids in self.ids])
        columns, values = np.concatenate(self.ids), np.concatenate(self.values)
        return SparseScores(rows, columns, values if offset is None else values - offset[columns], (len(self), self.n))

    def dense(self) -> Floats:
        """(Q, n); a missing score is the sum of its row's and its column's deviations."""
        matrix = np.full((len(self), self.n), np.nan)
        for row, ids, values in zip(matrix, self.ids, self.values, strict=True):
            row[ids] = values
        gaps = np.isnan(matrix)
        if gaps.any():
            rest = np.where(gaps, 0.0, matrix)
            overall = rest.sum() / max((~gaps).sum(), 1)
            by_row = rest.sum(axis=1) / np.maximum((~gaps).sum(axis=1), 1) - overall
            by_column = rest.sum(axis=0) / np.maximum((~gaps).sum(axis=0), 1) - overall
            matrix[gaps] = (overall + by_row[:, None] + by_column)[gaps]
        return matrix


@dataclass(frozen=True)
class Learned:
    """Parameters of the model above.

    Attributes
    ----------
    mean : (n,)      m
    factors : (n, d)      v, scaled so that u has unit mean square
    embedding_weight : float      γ, 0 without a dual encoder
    query_mean : (e,)      ē, empty without a dual encoder
    offset, offset_variance : float      of b
    residual_variance : float      of the noise
    latent_map : (e, d)      u is expected to be (e_q − ē) · latent_map
    latent_variance : (d,)      of u around that
    """

    mean: Floats
    factors: Floats
    embedding_weight: float
    query_mean: Floats
    offset: float
    offset_variance: float
    residual_variance: float
    latent_map: Floats
    latent_variance: Floats

    @cached_property
    def factor_variance(self) -> float:
        """Mean over the items of ‖v‖²: what the factors explain."""
        return float(np.einsum("ij,ij->", self.factors, self.factors)) / max(len(self.factors), 1)


def learn(
    scores: BuildScores,
    rank: int,
    *,
    queries: NDArray[np.floating] | None,
    items: NDArray[np.floating] | None,
    iterations: int = 8,
) -> Learned:
    """Fit the model.

    Parameters
    ----------
    scores : BuildScores
    rank : int      d, or less where the scores have no more
    queries : (Q, e) or None      dual encoder's embeddings of the build queries
    items : (n, e) or None      and of the items
    iterations : int      of the alternating least squares
    """
    rank = min(rank, max(len(scores) // 3, 1))  # the rest of the spectrum is needed to know the noise
    if queries is None or items is None:
        queries, items = np.zeros((len(scores), 0)), np.zeros((scores.n, 0))
    query_mean = np.asarray(np.mean(queries, axis=0, dtype=np.float64))
    centred = np.asarray(queries - query_mean, np.float64)
    if scores.is_dense:
        fitted = _learn_dense(scores.dense(), rank, centred, items)
    else:
        fitted = _learn_sparse(scores.sparse(), rank, centred, items, iterations)
    return replace(fitted, query_mean=query_mean)


def _learn_dense(matrix: Floats, rank: int, centred: Floats, items: NDArray[np.floating]) -> Learned:
    mean = matrix.mean(axis=0)
    mean -= mean.mean()
    rest = matrix - mean
    offsets = rest.mean(axis=1)
    rest -= offsets[:, None]
    similarity = centred @ items.T.astype(np.float64)
    similarity -= similarity.mean(axis=1, keepdims=True)
    weight = _slope(similarity, rest)
    rest -= weight * similarity
    # Probabilistic PCA [1]: the noise is the mean of the discarded eigenvalues, and a factor keeps what is above it.
    left, factors = singular_factors(rest, rank)
    energy = len(rest) * (factors**2).sum(axis=0)
    freedom = matrix.shape[1] * max(len(rest) - 1 - left.shape[1], 1)
    noise = max(float((rest**2).sum() - energy.sum()) / freedom, 0.0)
    factors = factors * np.sqrt(np.maximum(1.0 - matrix.shape[1] * noise / energy, 0.0))
    foreseen = foresee(left, centred, (factors**2).sum(axis=0))
    return Learned(mean, factors, weight, np.empty(0), float(offsets.mean()), float(offsets.var()), noise, *foreseen)


def _learn_sparse(
    scores: SparseScores, rank: int, centred: Floats, items: NDArray[np.floating], iterations: int
) -> Learned:
    n_queries, n = scores.shape
    rows, columns, values = scores.rows, scores.columns, scores.values
    bounds = np.searchsorted(rows, np.arange(n_queries + 1))
    parts = [items[columns[a:b]] @ centred[q] for q, (a, b) in enumerate(pairwise(bounds))]
    similarity = np.concatenate(parts)
    per_row, per_column = np.bincount(rows, minlength=n_queries), np.bincount(columns, minlength=n)
    offsets, mean, weight = np.zeros(n_queries), np.zeros(n), 0.0
    for _ in range(ROUNDS_OF_MEANS):
        rest = values - mean[columns] - weight * similarity
        offsets = np.bincount(rows, rest, n_queries) / np.maximum(per_row, 1)
        rest = values - offsets[rows] - weight * similarity
        mean = np.bincount(columns, rest, n) / (per_column + MEAN_SHRINKAGE)
        weight = _slope(similarity, values - offsets[rows] - mean[columns])
    rest = values - offsets[rows] - mean[columns] - weight * similarity
    residual = SparseScores(rows, columns, rest, scores.shape)
    start = np.random.default_rng(0).normal(size=(n, rank))
    model = alternating_least_squares(residual, start, features=items, iterations=iterations)
    foreseen = foresee(model.left, centred, (model.factors**2).sum(axis=0))
    return Learned(
        mean, model.factors, weight, np.empty(0), float(offsets.mean()), float(offsets.var()), model.noise, *foreseen
    )


def _slope(x: Floats, y: Floats) -> float:
    return float((x * y).sum() / max(float((x * x).sum()), 1e-300))
