"""Items that are sets of local vectors: the mean distance of a query's patches to the item's nearest patch.

    d(q, r) = mean_{p in q} min_{p' in r} ‖p - p'‖

The nearest patch is the largest inner product of extended vectors, <[p, 1], [2p', -|p'|²]>: late interaction (MaxSim)
on negative squared distances, in blocks. Not symmetric. Razavian et al. 2014, arXiv:1403.6382, with windows of several
sizes as patches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simtile.evaluation._rows import Float, as_indptr, as_rows

__all__ = ["patch_distances"]

BLOCK_BYTES = 16 << 20


def patch_distances(queries: Any, query_indptr: Any, items: Any, item_indptr: Any) -> Float:
    """All distances (M, N) between M queries and N items of several patches each.

    Parameters
    ----------
    queries, items : array or CPU tensor (P, D), (R, D)      patches, one item after another
    query_indptr, item_indptr : (M + 1,), (N + 1,)      where each begins and ends; none may be empty

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    2·P·R·D operations in float64; the (P, R) products live 16 MiB at a time. To search rather than to compare all:
    :class:`simtile.cur.MaxSimScorer`.

    Examples
    --------
    >>> patch_distances(np.array([[0.0], [3.0]]), np.array([0, 2]), np.array([[0.0], [1.0]]), np.array([0, 2]))
    array([[1.]])
    """
    asked = as_rows("queries", queries)
    stored = as_rows("items", items, asked.shape[1])
    starts = as_indptr("query_indptr", query_indptr, len(asked))
    ends = as_indptr("item_indptr", item_indptr, len(stored))
    lengths = (stored**2).sum(axis=1)
    nearest = np.empty((len(asked), len(ends) - 1))
    rows = max(1, BLOCK_BYTES // (8 * max(len(stored), 1)))
    for start in range(0, len(asked), rows):
        part = asked[start : start + rows]
        closeness = 2 * part @ stored.T - lengths
        best = np.maximum.reduceat(closeness, ends[:-1], axis=1)
        squared = (part**2).sum(axis=1)[:, None] - best
        nearest[start : start + rows] = np.sqrt(np.maximum(squared, 0.0))
    return np.asarray(np.add.reduceat(nearest, starts[:-1], axis=0) / np.diff(starts)[:, None])
