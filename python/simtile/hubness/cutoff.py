"""How many results a query gets: scores mapped per query, one threshold for all, at most k; ragged lists come out.

    map(score; query) -> cut at a threshold -> the first k        every map rises: no ranking changes

A raw cosine of 0.6 may be a match for one query and none for another. A monotone map whose parameters depend on the
query (predicted from its embedding by :mod:`simtile.hubness.cosine_adapter` [1], or fitted) brings all queries to one
scale, on which a single threshold decides; how many results a query gets follows from it [2].

[1] Cosine Adapter: arXiv:2408.04887. [2] Relevance filtering, up to k results: arXiv:2501.04695.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = Literal["linear", "sqrt", "power", "sigmoid"]
SHAPES: tuple[Shape, ...] = get_args(Shape)


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths, one after another (CSR): query i has entries ``indptr[i]:indptr[i + 1]``."""

    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, scores) of query i."""
        part = slice(self.indptr[i], self.indptr[i + 1])
        return self.ids[part], self.scores[part]


def cut(scores: Any, ids: Any, threshold: float, *, max_k: int | None = None, min_k: int = 0) -> Ragged:
    """Keep the results whose score reaches a threshold: at most ``max_k``, at least ``min_k`` of a query.

    Parameters
    ----------
    scores, ids : (M, k)      as searches return them, best first; -1 is padding and never kept
    threshold : float      one for all queries

    Raises
    ------
    ValueError      shapes that differ, scores that rise within a row, NaN, min_k above max_k

    Examples
    --------
    >>> found = cut(np.array([[0.9, 0.4], [0.3, 0.2]]), np.array([[5, 7], [1, 2]]), 0.35)
    >>> found.indptr, found.ids
    (array([0, 2, 2]), array([5, 7]))
    """
    values, items = np.asarray(scores, np.float64), np.asarray(ids)
    if values.ndim != 2 or values.shape != items.shape:
        raise ValueError(f"scores, ids: one shape (M, k), got {values.shape} and {items.shape}")
    real = items >= 0
    if np.isnan(values[real]).any() or np.isnan(threshold):
        raise ValueError("scores, threshold: numbers, got NaN")
    if (values[:, 1:] > values[:, :-1])[real[:, 1:]].any():
        raise ValueError("scores: best first in every row")
    most = values.shape[1] if max_k is None else max_k
    if not 0 <= min_k <= most:
        raise ValueError(f"min_k: 0..{most}, got {min_k}")
    place = np.arange(values.shape[1])
    keep = real & (place < most) & ((values >= threshold) | (place < min_k))
    indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    return Ragged(indptr.astype(np.int64), items[keep].astype(np.int64), values[keep].astype(np.float32))


def monotone_map(scores: Any, shape: Shape, a: Any, b: Any = 0.0, c: Any = 1.0) -> Float:
    """Scores (M, k) by a rising function per query; the parameters are (M,) or one number, a > 0 and c > 0.

    linear a·s + b · sqrt a·√max(s, 0) + b · power a·max(s, 0)^c + b · sigmoid 1 / (1 + exp(-(a·s + b)))
    """
    if shape not in SHAPES:
        raise ValueError(f"shape: one of {SHAPES}, got {shape!r}")
    s = np.asarray(scores, np.float64)
    a, b, c = (np.broadcast_to(np.asarray(p, np.float64), (len(s),))[:, None] for p in (a, b, c))
    if not ((a > 0).all() and (c > 0).all()):
        raise ValueError("a, c: positive, so that the map rises")
    if shape == "linear":
        return np.asarray(a * s + b)
    if shape == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh((a * s + b) / 2)))
    positive = np.maximum(s, 0.0)
    return np.asarray(a * (np.sqrt(positive) if shape == "sqrt" else positive**c) + b)


class IsotonicMap:
    """The rising step function nearest to relevance in squared error, one for all queries (pool adjacent violators).

    Barlow et al. 1972; calibrates scores to probabilities as ``sklearn.isotonic`` does, and is linear between steps.

    Examples
    --------
    >>> IsotonicMap().fit([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])([0.15, 0.85])
    array([0., 1.])
    """

    def fit(self, scores: Any, relevant: Any) -> IsotonicMap:
        """From scores and relevance (0 or 1, or anything between), of any one shape."""
        s, y = np.ravel(np.asarray(scores, np.float64)), np.ravel(np.asarray(relevant, np.float64))
        if s.shape != y.shape or not len(s):
            raise ValueError(f"scores, relevant: one shape, not empty, got {s.shape} and {y.shape}")
        values, where, counts = np.unique(s, return_inverse=True, return_counts=True)
        level, weight, width = [], [], []
        for mean, count in zip(np.bincount(where, weights=y) / counts, counts, strict=True):
            level.append(float(mean))
            weight.append(float(count))
            width.append(1)
            while len(level) > 1 and level[-2] >= level[-1]:
                total = weight[-2] + weight[-1]
                level[-2:] = [(level[-2] * weight[-2] + level[-1] * weight[-1]) / total]
                weight[-2:], width[-2:] = [total], [width[-2] + width[-1]]
        self.scores_, self.levels_ = values, np.repeat(level, width)
        return self

    def __call__(self, scores: Any) -> Float:
        """Mapped scores, of the same shape; constant beyond those that were fitted."""
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores_, self.levels_))


def choose_threshold(scores: Any, relevant: Any, *, beta: float = 1.0) -> float:
    """The threshold with the best F_beta of "relevant" over all queries together; of equals the highest.

    Parameters
    ----------
    scores : (M, k)      mapped or raw
    relevant : (M, k)      whether each result is
    """
    s, y = np.ravel(np.asarray(scores, np.float64)), np.ravel(np.asarray(relevant)).astype(bool)
    if s.shape != y.shape or not y.any():
        raise ValueError("relevant: of the shape of scores, with at least one that is")
    order = np.argsort(-s, kind="stable")
    hits = np.cumsum(y[order])
    taken = np.arange(1, len(s) + 1)
    f = (1 + beta**2) * hits / (beta**2 * y.sum() + taken)
    last = np.append(s[order][1:] != s[order][:-1], True)  # equal scores are cut together
    return float(s[order][np.where(last, f, -1.0).argmax()])
