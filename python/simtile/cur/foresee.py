"""What a query's embedding tells about its factors before any score is bought."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["foresee"]

Floats = NDArray[np.float64]

_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridges that are tried, in units of an embedding's mean square length."""
_LEAST_VARIANCE = 0.05


def foresee(left: Floats, queries: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """A ridge regression of factors on embeddings, as strong as it predicts best for queries that are left out.

    Parameters
    ----------
    left : (Q, d)      u of the build queries, of unit mean square and a mean of about 0
    queries : (Q, e)      their embeddings with the mean taken out
    weights : (d,)      how much a factor matters: the sum over the items of v²

    Returns
    -------
    coefficients : (e, d)      of the prediction, each factor's times the slope that fits the left-out ones best
    variance : (d,)      of u around it, for a query that is left out: 1 where nothing is foreseen, 0.05 at least
    """
    n = len(queries)
    best, coefficients, variance = np.inf, np.zeros((queries.shape[1], left.shape[1])), np.ones(left.shape[1])
    unit = float((queries**2).sum()) / max(n, 1)
    if n < 3 or unit == 0.0:
        return coefficients, variance
    rows, sizes, columns = np.linalg.svd(queries, full_matrices=False)
    turned = rows.T @ left
    for strength in _STRENGTHS:
        kept = sizes / (sizes**2 + strength * unit)
        fitted = rows @ ((kept * sizes)[:, None] * turned)
        own = 1.0 / n + rows**2 @ (kept * sizes)  # a query's share in its own fit, the mean's included
        without = left - (left - fitted) / (1.0 - own)[:, None]
        slope = np.clip((without * left).sum(axis=0) / ((without**2).sum(axis=0) + 1e-300), 0.0, 1.0)
        rest = ((left - slope * without) ** 2).mean(axis=0) / ((left**2).mean(axis=0) + 1e-300)
        if rest @ weights < best:
            best = float(rest @ weights)
            coefficients, variance = columns.T @ (kept[:, None] * turned) * slope, np.clip(rest, _LEAST_VARIANCE, 1.0)
    return coefficients, variance
