"""Item factors from scores: the singular value decomposition of whole rows, alternating least squares of sparse ones.

G[q, i] ≈ u_q · v_i        U (Q, d), V (n, d)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SparseScores", "alternating_least_squares", "singular_factors"]

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


def alternating_least_squares(
    scores: SparseScores,
    start: NDArray[np.float64],
    *,
    ridge: float,
    iterations: int = 10,
    prior: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """U (Q, d), V (n, d) that minimise Σ (g − u·v)² + ridge (Σ ‖u‖² + Σ ‖v − prior‖²) over the known entries.

    Parameters
    ----------
    scores : SparseScores
    start : (n, d)      V to begin with; its columns should differ
    ridge : float      above 0, in units of a squared score
    iterations : int
    prior : (n, d), optional      where an item's factors are drawn to, by default 0; an item without scores gets it

    Notes
    -----
    Each half step solves every row's (d, d) system, in padded batches of similar length. Between steps the scales of U
    and V are levelled so that the columns of U have unit mean square.
    """
    rows, columns = scores.by_row(), scores.by_column()
    v = start.astype(np.float64)
    u = np.zeros((scores.shape[0], v.shape[1]))
    for _ in range(iterations):
        u = rows.solve(v, ridge, None)
        size = np.sqrt((u**2).mean(axis=0)) + 1e-12
        u /= size
        v = columns.solve(u, ridge, prior)
    return u, v


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

    def solve(self, fixed: NDArray[np.float64], ridge: float, prior: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """argmin_x Σ (g − x·fixed)² + ridge ‖x − prior‖² for every row of this side."""
        n, d = len(self.starts) - 1, fixed.shape[1]
        counts = np.diff(self.starts)
        result = np.zeros((n, d)) if prior is None else prior.astype(np.float64).copy()
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
            rest = self.values[position] * there - np.matmul(design, result[batch, :, None])[..., 0]
            turned = np.swapaxes(design, 1, 2)
            gram = np.matmul(turned, design) + ridge * np.eye(d)
            result[batch] += np.linalg.solve(gram, np.matmul(turned, rest[..., None]))[..., 0]
            at = stop
        return result
