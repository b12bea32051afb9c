"""The losses of simtile in float64 NumPy, from the reductions of :mod:`simtile.kernels.reference`.

Inputs, asserts and memory are as there: this is a specification, and every score is stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simtile.kernels.reference import (
    Float,
    Int,
    Reduction,
    left_out,
    logsumexp,
    reduce_rows,
    scores,
    softplus,
    unit,
)


def _as_given(x: ArrayLike) -> Float:
    return np.asarray(x, dtype=np.float64)


def info_nce(
    query: ArrayLike,
    key: ArrayLike,
    *,
    temperature: float = 0.07,
    symmetric: bool = False,
    normalize: bool = True,
    query_ids: ArrayLike | None = None,
    key_ids: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    negatives: ArrayLike | None = None,
    row_negatives: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float:
    """InfoNCE (arXiv:1807.03748, eq. 4) of queries (M, D) and keys (N, D), with s = <query, key> / temperature.

    Row direction: query i must find its positive, key p_i = targets[i] (default i, N >= M), among all N keys, the
    ``negatives`` (K, D) and its private ``row_negatives[i]`` (K', D). A key j != p_i with key_ids[j] == query_ids[i] is
    a false negative and left out; p_i always stays; negatives have no ids and always stay.

    Column direction (``symmetric``): one term per query. Key p_i must find query i among all M queries; a query i' != i
    with query_ids[i'] == key_ids[p_i] is left out. Keys that are nobody's positive, and both kinds of negatives, have
    no term of their own. The loss of pair i is then (row_i + column_i) / 2.

    ``label_smoothing`` is that of ``torch.nn.functional.cross_entropy`` over the kept candidates: their scores get
    smoothing / n each. ``weight`` (M,) multiplies the pairs' losses (:func:`reduce_rows`); it takes no candidate out.
    """
    project = unit if normalize else _as_given
    q, k = project(query), project(key)
    M, N = len(q), len(k)
    own = np.arange(M) if targets is None else np.asarray(targets, np.int64)
    assert own.shape == (M,) and (M == 0 or 0 <= own.min() <= own.max() < N)
    s, drop = scores(q, k, 1 / temperature), left_out(M, N, x_ids=query_ids, y_ids=key_ids)

    candidates = [s]
    if negatives is not None:
        candidates.append(scores(q, project(negatives), 1 / temperature))
    if row_negatives is not None:
        candidates.append(np.einsum("md,mkd->mk", q, project(row_negatives)) / temperature)
    wide = np.hstack(candidates)
    loss = _cross_entropy(wide, np.pad(drop, ((0, 0), (0, wide.shape[1] - N))), own, label_smoothing)
    if symmetric:
        loss = (loss + _cross_entropy(s[:, own].T, drop[:, own].T, np.arange(M), label_smoothing)) / 2
    return reduce_rows(loss, weight, reduction)


def _cross_entropy(s: Float, drop: NDArray[np.bool_], own: Int, smoothing: float) -> Float:
    """(M,) cross-entropy of candidates (M, C) where ``own`` (M,) is right; ``drop`` takes out any but the own one."""
    rows = np.arange(len(s))
    others = ~drop
    others[rows, own] = False
    right = s[rows, own]
    # Not logsumexp(all) - right: the difference of two large numbers has no correct digit left at a loss of 1e-15.
    loss = softplus(logsumexp(np.where(others, s, -np.inf), axis=1) - right)
    mean = (np.where(others, s, 0.0).sum(axis=1) + right) / (others.sum(axis=1) + 1)
    return np.asarray(loss + smoothing * (right - mean), np.float64)


def sigmoid_loss(
    query: ArrayLike,
    key: ArrayLike,
    *,
    scale: float = 10.0,
    bias: float = -10.0,
    normalize: bool = True,
    query_ids: ArrayLike | None = None,
    key_ids: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Float:
    """SigLIP (arXiv:2303.15343, eq. 1): -Σ_ij logsigmoid(z_ij * (scale * <q_i, k_j> + bias)), the mean divided by M.

    z_ij = 1 for pair (i, i) and wherever query_ids[i] == key_ids[j] (several positives), else -1. N may differ from M.
    """
    q, k = (unit(query), unit(key)) if normalize else (query, key)
    s = scores(q, k, scale) + bias
    positive = left_out(*s.shape, x_ids=query_ids, y_ids=key_ids, skip_diagonal=True)
    return reduce_rows(softplus(np.where(positive, -s, s)).sum(axis=1), None, reduction)
