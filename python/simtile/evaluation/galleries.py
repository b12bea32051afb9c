"""Recall in galleries: each query ranks a small set of its own, and chance is known exactly.

    recall@k = share of queries with a relevant item among the k best of their own gallery
    chance@k = mean_i [1 - C(n_i - r_i, k) / C(n_i, k)]        n_i items, r_i relevant ones

A score that cannot tell the items apart gets exactly the chance level: equal scores count with the probability that a
random order of them would give. Vaze et al. 2023, GeneCIS, arXiv:2306.07969: 10 to 15 items a gallery, k = 1, 2, 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simtile.evaluation._rows import Float, as_indptr, as_rows, unit

__all__ = ["GalleryReport", "gallery_recall", "gallery_scores"]


@dataclass(frozen=True)
class GalleryReport:
    """Recall and chance by k."""

    recall_at: dict[int, float]
    chance_at: dict[int, float]
    n_queries: int


def gallery_scores(queries: Any, items: Any, indptr: Any) -> Float:
    """(T,) cosines of each query (M, D) with its gallery's items, rows indptr[i]:indptr[i + 1] of ``items (T, D)``.

    Raises TypeError or ValueError naming the argument.
    """
    rows = as_rows("queries", queries)
    found = as_rows("items", items, rows.shape[1])
    offsets = as_indptr("indptr", indptr, len(found))
    if len(offsets) != len(rows) + 1:
        raise ValueError(f"indptr: {len(rows) + 1} offsets, got {len(offsets)}")
    own = np.repeat(unit(rows), np.diff(offsets), axis=0)
    return np.asarray((own * unit(found)).sum(axis=1))


def gallery_recall(scores: Any, indptr: Any, relevant: Any, ks: Sequence[int] = (1, 2, 3)) -> GalleryReport:
    """Recall at several k over galleries of different sizes.

    Parameters
    ----------
    scores : (T,)      of all galleries, one after another
    indptr : (M + 1,)      gallery i is ``indptr[i]:indptr[i + 1]``
    relevant : bool (T,)      at least one a gallery
    ks : sequence of int

    Raises
    ------
    TypeError, ValueError      naming the argument

    Examples
    --------
    >>> report = gallery_recall(np.array([0.9, 0.1, 0.4, 0.5, 0.2]), np.array([0, 2, 5]), np.array([1, 0, 1, 0, 0]))
    >>> report.recall_at[1], round(report.chance_at[1], 4)  # (1/2 + 1/3) / 2
    (0.5, 0.4167)
    """
    values, wanted = np.asarray(scores, np.float64), np.asarray(relevant).astype(bool)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(f"scores: numbers (T,), got NaN or shape {values.shape}")
    offsets = as_indptr("indptr", indptr, len(values))
    if wanted.shape != values.shape:
        raise ValueError(f"relevant: shape {values.shape}, got {wanted.shape}")
    if any(k < 1 for k in ks):
        raise ValueError(f"ks: at least 1 each, got {tuple(ks)}")
    starts, sizes = offsets[:-1], np.diff(offsets)
    total = np.add.reduceat(wanted.astype(np.int64), starts)
    if (total < 1).any():
        raise ValueError(f"relevant: at least one a gallery, got none in gallery {np.flatnonzero(total < 1)[0]}")
    best = np.repeat(np.maximum.reduceat(np.where(wanted, values, -np.inf), starts), sizes)
    above = np.add.reduceat((values > best).astype(np.int64), starts)  # irrelevant, all of them
    level = values == best
    hits = np.add.reduceat((level & wanted).astype(np.int64), starts)
    others = np.add.reduceat((level & ~wanted).astype(np.int64), starts)
    none = np.zeros(len(starts), np.int64)
    return GalleryReport(
        {int(k): float(_any_of(hits, others, k - above).mean()) for k in ks},
        {int(k): float(_any_of(total, sizes - total, none + k).mean()) for k in ks},
        len(starts),
    )


def _any_of(hits: Any, others: Any, places: Any) -> Float:
    """Probability that ``places`` random draws out of hits and others, without replacement, hold a hit."""
    missed = np.ones(len(hits))
    for taken in range(int(places.max(initial=0))):
        share = np.maximum(others - taken, 0) / np.maximum(hits + others - taken, 1)
        missed *= np.where(taken < places, share, 1.0)
    return np.asarray(1.0 - missed)
