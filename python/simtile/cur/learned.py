"""What the scores of the build queries teach about the items.

    s[q, i] = b_q + m_i + γ <e_q − ē, f_i> + u_q · v_i + noise

m is the item mean (a hub's is high), <e_q − ē, f_i> the dual encoder's score with the mean over queries taken out, and
v the factors of what remains; u is foreseen from e_q − ē (:mod:`simtile.cur.foresee`). Words beside the dual encoder
have a γ of their own. With whole rows the means are exact and v comes from a singular value decomposition; with sparse
scores b, m and γ are fitted in turns and v by alternating least squares.

[1] Tipping & Bishop 1999, "Probabilistic principal component analysis", eq. 7 and 8.
[2] Fay & Herriot 1979, "Estimates of income for small places", JASA 74 (366).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simtile.cur.factorize import Smoother, SparseScores, alternating_least_squares, singular_factors
from simtile.cur.foresee import foresee

__all__ = ["BuildScores", "Learned", "learn"]

Floats = NDArray[np.float64]

ROUNDS_OF_MEANS = 15


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
    weights : (e,)      γ of each coordinate of e and f, the same over a dual encoder's and over the words'
    weight_variance : (e,)      how far a query's own weights may be expected from that: the mean of (γ e)²
    query_mean : (e,)      ē, empty without a dual encoder and words
    offset, offset_variance : float      of b
    residual_variance : float      of the noise
    latent_map : (e, d)      u is expected to be (e_q − ē) · latent_map
    latent_variance : (d,)      of u around that
    """

    mean: Floats
    factors: Floats
    weights: Floats
    weight_variance: Floats
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
    widths: Sequence[int] | None = None,
    iterations: int = 8,
) -> Learned:
    """Fit the model.

    Parameters
    ----------
    scores : BuildScores
    rank : int      d, or less where the scores have no more
    queries : (Q, e) or None      features of the build queries: a dual encoder's embeddings, words
    items : (n, e) or None      and of the items
    widths : sequence of int, optional      of each kind of features, e in all; by default there is one kind
    iterations : int      of the alternating least squares
    """
    rank = min(rank, max(len(scores) // 3, 1))  # the rest of the spectrum is needed to know the noise
    if queries is None or items is None:
        queries, items, widths = np.zeros((len(scores), 0)), np.zeros((scores.n, 0)), ()
    query_mean = np.asarray(np.mean(queries, axis=0, dtype=np.float64))
    centred = np.asarray(queries - query_mean, np.float64)
    bounds = np.cumsum([0, *((queries.shape[1],) if widths is None else widths)])
    kinds = [slice(start, stop) for start, stop in pairwise(bounds.tolist())]
    if scores.is_dense:
        fitted = _learn_dense(scores.dense(), rank, centred, items, kinds)
    else:
        fitted = _learn_sparse(scores.sparse(), rank, centred, items, kinds, iterations)
    return replace(fitted, query_mean=query_mean)


def _learn_dense(
    matrix: Floats, rank: int, centred: Floats, items: NDArray[np.floating], kinds: Sequence[slice]
) -> Learned:
    mean = matrix.mean(axis=0)
    mean -= mean.mean()
    rest = matrix - mean
    offsets = rest.mean(axis=1)
    rest -= offsets[:, None]
    similarities = np.empty((len(kinds), *matrix.shape))
    for similarity, kind in zip(similarities, kinds, strict=True):
        similarity[:] = centred[:, kind] @ items[:, kind].T.astype(np.float64)
        similarity -= similarity.mean(axis=1, keepdims=True)
    weights = _slopes(similarities.reshape(len(kinds), matrix.size), rest.ravel())
    rest -= np.tensordot(weights, similarities, 1)
    # Probabilistic PCA [1]: the noise is the mean of the discarded eigenvalues, and a factor keeps what is above it.
    left, factors = singular_factors(rest, rank)
    energy = len(rest) * (factors**2).sum(axis=0)
    freedom = matrix.shape[1] * max(len(rest) - 1 - left.shape[1], 1)
    noise = max(float((rest**2).sum() - energy.sum()) / freedom, 0.0)
    factors = factors * np.sqrt(np.maximum(1.0 - matrix.shape[1] * noise / energy, 0.0))
    return Learned(
        mean, factors, *_of_coordinates(weights, centred, kinds), np.empty(0), float(offsets.mean()),
        float(offsets.var()), noise, *foresee(left, centred, (factors**2).sum(axis=0)),
    )  # fmt: skip


def _learn_sparse(
    scores: SparseScores,
    rank: int,
    centred: Floats,
    items: NDArray[np.floating],
    kinds: Sequence[slice],
    iterations: int,
) -> Learned:
    n_queries, n = scores.shape
    rows, columns, values = scores.rows, scores.columns, scores.values
    bounds = np.searchsorted(rows, np.arange(n_queries + 1))
    similarities = np.empty((len(kinds), len(values)))
    for q, (a, b) in enumerate(pairwise(bounds)):
        for similarity, kind in zip(similarities, kinds, strict=True):
            similarity[a:b] = items[columns[a:b], kind] @ centred[q, kind]
    per_row, per_column = np.bincount(rows, minlength=n_queries), np.bincount(columns, minlength=n)
    smooth = Smoother(items - items.mean(axis=0), per_column.astype(np.float64)) if kinds else None
    offsets, mean, weights = np.zeros(n_queries), np.zeros(n), np.zeros(len(kinds))
    for _ in range(ROUNDS_OF_MEANS):
        rest = values - mean[columns] - weights @ similarities
        offsets = np.bincount(rows, rest, n_queries) / np.maximum(per_row, 1)
        rest = values - offsets[rows] - weights @ similarities
        mean = _shrunken_means(rest, columns, per_column, smooth)
        weights = _slopes(similarities, values - offsets[rows] - mean[columns])
    rest = values - offsets[rows] - mean[columns] - weights @ similarities
    residual = SparseScores(rows, columns, rest, scores.shape)
    start = np.random.default_rng(0).normal(size=(n, rank))
    model = alternating_least_squares(residual, start, features=items, iterations=iterations)
    return Learned(
        mean, model.factors, *_of_coordinates(weights, centred, kinds), np.empty(0), float(offsets.mean()),
        float(offsets.var()), model.noise, *foresee(model.left, centred, (model.factors**2).sum(axis=0)),
    )  # fmt: skip


def _shrunken_means(
    values: Floats, columns: NDArray[np.int64], counts: NDArray[np.int64], smooth: Smoother | None
) -> Floats:
    """Means (n,) of each item's values, drawn to their regression on the features, or to 0.

    As far as the spread of one value and of the means say (empirical Bayes [2]): an item seen once is hardly a hub, one
    that reads like a hub may be.
    """
    mean = np.bincount(columns, values, len(counts)) / np.maximum(counts, 1)
    prior = np.zeros_like(mean) if smooth is None else smooth(mean[:, None])[:, 0]
    within = float(((values - mean[columns]) ** 2).sum()) / max(len(values) - np.count_nonzero(counts), 1)
    about = float(counts @ (mean - prior) ** 2) / counts.sum() - within * np.count_nonzero(counts) / counts.sum()
    worth = within / max(about, 1e-3 * within, 1e-300)  # in values, of the prior
    return np.asarray((counts * mean + worth * prior) / (counts + worth + 1e-300))


def _slopes(similarities: Floats, values: Floats) -> Floats:
    """γ (kinds,): the least squares of values (m,) on similarities (kinds, m)."""
    gram = similarities @ similarities.T
    return np.asarray(np.linalg.lstsq(gram, similarities @ values, rcond=None)[0])


def _of_coordinates(weights: Floats, centred: Floats, kinds: Sequence[slice]) -> tuple[Floats, Floats]:
    """γ (e,) of each coordinate and the mean square of γ e over its kind."""
    each, variance = np.zeros(centred.shape[1]), np.zeros(centred.shape[1])
    for weight, kind in zip(weights, kinds, strict=True):
        each[kind] = weight
        variance[kind] = weight**2 * (centred[:, kind] ** 2).mean()
    return each, variance
