"""Item factors from scores: the singular value decomposition of whole rows, alternating least squares of sparse ones.

G[q, i] ≈ u_q · v_i        U (Q, d), V (n, d)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FactorModel", "Smoother", "SparseScores", "alternating_least_squares", "singular_factors"]

_CHUNK_FLOATS = 1 << 23
"""Bound of a padded batch of least-squares problems: 64 MiB."""


@dataclass(frozen=True)
class SparseScores:
    """Some entries of a (Q, n) matrix: values (nnz,) at rows (nnz,) and columns (nnz,)."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    shape: tuple[int, int]

    def by_row(self) -> _Grouped:
        return _Grouped.of(self.rows, self.columns, self.values, self.shape[0])

    def by_column(self) -> _Grouped:
        return _Grouped.of(self.columns, self.rows, self.values, self.shape[1])


def singular_factors(matrix: NDArray[np.float64], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """U (Q, d) of unit mean square per column and V (n, d): the best approximation of a (Q, n) matrix of rank d.

    By the eigenvectors of the smaller Gram matrix, so that a million columns cost one product. ``d`` is ``rank`` or
    less, where the matrix has no more.
    """
    q, n = matrix.shape
    gram = matrix @ matrix.T if q <= n else matrix.T @ matrix
    values, vectors = np.linalg.eigh(gram)
    keep = np.argsort(-values)[:rank]
    keep = keep[values[keep] > max(q, n) * np.finfo(np.float64).eps * max(values.max(initial=0.0), 0.0)]
    if q <= n:
        left = vectors[:, keep] * np.sqrt(q)
        return left, matrix.T @ left / q
    right = vectors[:, keep]
    left = matrix @ right
    size = np.sqrt((left**2).mean(axis=0))
    return left / size, right * size


@dataclass(frozen=True)
class FactorModel:
    """g = u·v + noise with u ~ N(0, I), v_k ~ N(prior_k, spread_k).

    Attributes
    ----------
    left : (Q, d)      u, of unit covariance
    factors : (n, d)      v, with the largest spread first
    noise : float      variance
    """

    left: NDArray[np.float64]
    factors: NDArray[np.float64]
    noise: float


def alternating_least_squares(
    scores: SparseScores,
    start: NDArray[np.float64],
    *,
    features: NDArray[np.floating] | None = None,
    iterations: int = 10,
) -> FactorModel:
    """Factors of a sparsely known matrix, each step a ridge regression for every row or column.

    Parameters
    ----------
    scores : SparseScores
    start : (n, d)      V to begin with; its columns should differ
    features : (n, e), optional      what is known of items besides: V is drawn to its ridge regression on them, which
        is all that an item without scores gets (the inductive map of AXN)
    iterations : int

    Notes
    -----
    Minimises Σ (g − u·v)² / noise + Σ ‖u‖² + Σ_k (v_k − prior_k)² / spread_k. The noise and the spreads are not given:
    after each step they are set to their expectations, the posterior variances included, so that factors which the
    scores do not support die out instead of fitting them (automatic relevance determination [1]).

    [1] Ilin & Raiko 2010, "Practical approaches to principal component analysis in the presence of missing values", §4.
    """
    rows, columns = scores.by_row(), scores.by_column()
    counts = np.bincount(scores.columns, minlength=scores.shape[1]).astype(np.float64)
    lengths = np.bincount(scores.rows, minlength=scores.shape[0]).astype(np.float64)
    smooth = None if features is None or not features.shape[1] else Smoother(features, counts)
    v, d = start.astype(np.float64), start.shape[1]
    total = float((scores.values**2).mean()) + 1e-300
    noise, spread = 0.5 * total, np.full(d, 0.5 * total / d)
    u = np.zeros((scores.shape[0], d))
    for _ in range(iterations):
        u = rows.solve(v, np.full(d, noise), None)
        u, v = _principal(u, v)
        prior = np.zeros_like(v) if smooth is None else smooth(v)
        v = columns.solve(u, noise / spread, prior)
        uncertain = 1.0 / (counts[:, None] / noise + 1.0 / spread)
        spread = ((v - prior) ** 2 + uncertain).mean(axis=0)
        rest = scores.values - np.einsum("ij,ij->i", u[scores.rows], v[scores.columns])
        size = counts @ v**2 / counts.sum()  # of a scored item's v
        left_uncertain = size / (lengths[:, None] * size / noise + 1.0)
        lost = (uncertain.sum(axis=1) @ counts + left_uncertain.sum(axis=1) @ lengths) / counts.sum()
        noise = float((rest**2).mean() + lost)
        noise, spread = max(noise, 1e-9 * total), np.maximum(spread, 1e-9 * total)
    return FactorModel(u, v, noise)


def _principal(
    left: NDArray[np.float64], factors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same product with u of covariance 1 and the columns of V orthogonal, the largest first."""
    values, vectors = np.linalg.eigh(left.T @ left / len(left))
    root = np.sqrt(np.maximum(values, 1e-12 * max(float(values.max()), 1e-300)))
    left, factors = left @ (vectors / root), factors @ (vectors * root)
    turn = np.linalg.eigh(factors.T @ factors)[1][:, ::-1]
    return left @ turn, factors @ turn


class Smoother:
    """The ridge regression of item factors on item features, weighted by the number of an item's scores."""

    def __init__(self, features: NDArray[np.floating], counts: NDArray[np.float64]) -> None:
        self._features = features.astype(np.float64)
        self._weighted = self._features * counts[:, None]
        gram = self._weighted.T @ self._features
        self._inverse = np.linalg.inv(gram + np.trace(gram) / len(gram) * np.eye(len(gram)))

    def __call__(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._features @ (self._inverse @ (self._weighted.T @ factors)))


@dataclass(frozen=True)
class _Grouped:
    """Entries sorted by the side that is being solved for."""

    starts: NDArray[np.int64]
    others: NDArray[np.int64]
    values: NDArray[np.float64]

    @staticmethod
    def of(side: NDArray[np.int64], other: NDArray[np.int64], values: NDArray[np.float64], n: int) -> _Grouped:
        order = np.argsort(side, kind="stable")
        counts = np.bincount(side, minlength=n)
        return _Grouped(np.concatenate([[0], np.cumsum(counts)]), other[order], values[order])

    def solve(
        self, fixed: NDArray[np.float64], ridge: NDArray[np.float64], prior: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """argmin_x Σ (g − x·fixed)² + Σ_k ridge_k (x_k − prior_k)² for every row of this side."""
        n, d = len(self.starts) - 1, fixed.shape[1]
        counts = np.diff(self.starts)
        result = np.zeros((n, d)) if prior is None else prior.copy()
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        at = 0
        while at < len(order):
            width = counts[order[at]]
            stop = at
            # Rows come by length: take them until the padded batch is full.
            while stop < len(order) and (stop - at + 1) * counts[order[stop]] * d <= _CHUNK_FLOATS:
                width = counts[order[stop]]
                stop += 1
            stop = max(stop, at + 1)
            batch = order[at:stop]
            width = counts[batch].max()
            position = self.starts[batch, None] + np.arange(width)
            there = np.arange(width) < counts[batch, None]
            position = np.where(there, position, 0)
            design = fixed[self.others[position]] * there[..., None]
            turned = np.swapaxes(design, 1, 2)
            gram = np.matmul(turned, design) + np.diag(ridge)
            rest = (self.values[position] * there)[..., None] - np.matmul(design, result[batch, :, None])
            result[batch] += np.linalg.solve(gram, np.matmul(turned, rest))[..., 0]
            at = stop
        return result
