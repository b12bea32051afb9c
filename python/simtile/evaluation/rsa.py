"""Representational similarity analysis: do two representations of the same items find the same items alike?

    rsa = corr over pairs i < j of (cos(x_i, x_j), cos(y_i, y_j))            Pearson, or Spearman: of the ranks

The n (n - 1) / 2 pairs are computed block by block and never kept. Spearman needs ranks among all pairs: a first pass
counts the cosines on a grid of 2^20 steps over [-1, 1], a second looks up the mean rank of each. It is the exact
rank correlation, ties included, of cosines rounded to 2^-19.

Kriegeskorte et al. 2008, doi:10.3389/neuro.06.004.2008; against human similarity judgments: Marjieh et al. 2022,
arXiv:2206.04105.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.evaluation._rows import Float, as_rows, unit

__all__ = ["rsa", "rsa_judged"]

Correlation: TypeAlias = Literal["pearson", "spearman"]

GRID = 1 << 20
BLOCK_BYTES = 4 << 20


def rsa(x: Any, y: Any, *, correlation: Correlation = "spearman") -> float:
    """Correlation between the cosine similarities of two representations, over all pairs of items.

    Parameters
    ----------
    x : (n, D)      array or CPU tensor
    y : (n, E)      another representation of the same items, in the same order
    correlation : {"spearman", "pearson"}

    Returns
    -------
    float in [-1, 1]      NaN where one side finds all pairs equally alike

    Raises
    ------
    TypeError, ValueError      naming the argument; fewer than 3 items

    Notes
    -----
    n²·(D + E) operations, twice for Spearman; extra memory some 40 MiB, whatever n, and for Spearman as much again.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> round(rsa(x, 3 * x[:, ::-1]), 12)  # a reflection and a scale
    1.0
    """
    a, b = unit(as_rows("x", x)), unit(as_rows("y", y))
    if len(a) != len(b) or len(a) < 3:
        raise ValueError(f"x, y: the same items, at least 3, got {len(a)} and {len(b)}")
    _check(correlation)
    if correlation == "pearson":
        return _pearson(_pairs(a, b))
    counts = np.zeros((2, GRID + 1), np.int64)
    for values in _pairs(a, b):
        for side, part in zip(counts, values, strict=True):
            side += np.bincount(_places(part), minlength=GRID + 1)
    ranks = np.cumsum(counts, axis=1) - (counts - 1) / 2  # the mean rank of those that fall on one step
    return _pearson((ranks[0][_places(p)], ranks[1][_places(q)]) for p, q in _pairs(a, b))


def rsa_judged(x: Any, pairs: Any, ratings: Any, *, correlation: Correlation = "spearman") -> float:
    """Correlation between cosines and ratings of listed pairs, as people give them.

    Parameters
    ----------
    x : (n, D)
    pairs : integers (P, 2)      rows of x; ``np.stack(np.triu_indices(n, 1), 1)`` for a full matrix of ratings
    ratings : (P,)      similarities, larger for more alike

    Examples
    --------
    >>> rsa_judged(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), [[0, 1], [0, 2], [1, 2]], [5, 1, 2])
    1.0
    """
    rows, listed, judged = unit(as_rows("x", x)), np.asarray(pairs), np.asarray(ratings, np.float64)
    _check(correlation)
    if listed.ndim != 2 or listed.shape[1] != 2 or not np.issubdtype(listed.dtype, np.integer):
        raise ValueError(f"pairs: integers (P, 2), got {listed.dtype} of shape {listed.shape}")
    if listed.size and not (listed.min() >= 0 and listed.max() < len(rows)):
        raise ValueError(f"pairs: 0..{len(rows) - 1}, got {listed.min()}..{listed.max()}")
    if judged.shape != (len(listed),) or not np.isfinite(judged).all():
        raise ValueError(f"ratings: {len(listed)} finite numbers, got shape {judged.shape}")
    cosines = (rows[listed[:, 0]] * rows[listed[:, 1]]).sum(1)
    if correlation == "spearman":
        cosines, judged = _mean_ranks(cosines), _mean_ranks(judged)
    return _pearson(iter([(cosines, judged)]))


def _check(correlation: str) -> None:
    if correlation not in ("pearson", "spearman"):
        raise ValueError(f"correlation: 'pearson' or 'spearman', got {correlation!r}")


def _pairs(a: Float, b: Float) -> Iterator[tuple[Float, Float]]:
    """Cosines on both sides of the pairs i < j, in blocks."""
    n = len(a)
    rows = max(1, BLOCK_BYTES // (8 * n))
    for start in range(0, n - 1, rows):
        above = np.arange(start, n)[None, :] > np.arange(start, min(start + rows, n))[:, None]
        yield (a[start : start + rows] @ a[start:].T)[above], (b[start : start + rows] @ b[start:].T)[above]


def _places(cosines: Float) -> NDArray[np.int64]:
    return np.clip(np.rint((cosines + 1) * (GRID / 2)), 0, GRID).astype(np.int64)


def _mean_ranks(values: Float) -> Float:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[where])


def _pearson(parts: Iterator[tuple[Float, Float]]) -> float:
    """From centred sums of parts, merged as Chan et al. 1983 do: no difference of large sums."""
    count, mean = 0, np.zeros(2)
    moments = np.zeros((2, 2))
    for p, q in parts:
        values = np.stack([p, q])
        off = values.mean(axis=1) - mean
        centred = values - values.mean(axis=1, keepdims=True)
        total = count + values.shape[1]
        moments += centred @ centred.T + np.outer(off, off) * (count * values.shape[1] / total)
        mean += off * (values.shape[1] / total)
        count = total
    scale = np.sqrt(moments[0, 0] * moments[1, 1])
    return float(moments[0, 1] / scale) if scale > 0 else float("nan")
