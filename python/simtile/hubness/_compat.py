"""Scores as the released code of QB-Norm and DBNorm computes them, for comparisons with published numbers.

What is wrong with them: rows whose gate is open hold exp(beta * s) / Σ_b exp(beta * s_b), others raw scores, so that
no threshold and no ranking of queries for an item makes sense; a product with a raw factor turns the order of negative
scores round; nothing is shifted, so that the original overflows where these values, made from logarithms, do not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.hubness._model import Model
from simtile.hubness._pairwise import BLOCK_BYTES
from simtile.hubness._summary import Rows

Float = NDArray[np.float64]

_LEAST = 32
"""Candidates of a search by the tangent."""


def released(scores: NDArray[Any], gates: NDArray[np.bool_], model: Model) -> Float:
    """(M, k) of inverted softmax, its dynamic form and DualIS: the same ranking on the released code's scale."""
    settings = model.settings
    total = sum(settings.slope(bank) for bank in settings.banks)
    sizes = sum(math.log(model.stats[bank].count) for bank in settings.banks)
    wide = np.asarray(scores, np.float64)
    with np.errstate(over="ignore"):
        corrected = np.exp(total * wide - sizes)
    raw = wide - sum(model.correction.constants)
    opened = np.asarray(gates.all(axis=1))[:, None]
    return np.where(np.isneginf(wide), -np.inf, np.where(opened, corrected, raw))


def dual_dis(
    queries: Rows, k: int, model: Model, allowed: NDArray[np.bool_] | None, num_threads: int
) -> tuple[Float, NDArray[np.int64]]:
    """(M, k) of DualDIS: f_1 * f_2, each an inverted softmax where its gate is open, else the raw score.

    The product is not affine in the score s, but its logarithm is concave where a raw factor is positive: the tangent
    at some s_0 is affine, never below it, and searched exactly. Rows whose k-th value reaches what the tangent leaves
    possible for all others are done; the rest, and those that reach into negative scores, are computed for every item.
    """
    scores, ids = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
    raw, raw_ids, gates = model.gated.raw(queries, k, allowed, num_threads)
    left = [np.zeros(0, np.int64)]
    for opened in np.unique(gates, axis=0) if k else []:
        rows = np.flatnonzero((gates == opened).all(axis=1))
        if opened.any():
            found, proved = _tangent(queries[rows], raw[rows], model, opened, allowed, num_threads)
            left.append(rows[~proved])
        else:
            # The best of s² are among the best of s and of -s.
            against = model.gated.raw(-queries[rows], k, allowed, num_threads)
            found = np.hstack([raw_ids[rows], against[1]]), np.hstack([raw[rows], -against[0]])
        scores[rows], ids[rows] = _best(*found, k, model, opened)
    rest = np.concatenate(left)
    step = max(1, BLOCK_BYTES // (64 * max(len(model.corpus.gallery), 1)))
    for i0 in range(0, len(rest), step):
        rows = rest[i0 : i0 + step]
        s = (queries[rows] @ model.corpus.gallery.T).astype(np.float64)
        if allowed is not None:
            s[:, ~allowed] = -np.inf
        every = np.broadcast_to(np.arange(s.shape[1]), s.shape)
        for opened in np.unique(gates[rows], axis=0):
            same = (gates[rows] == opened).all(axis=1)
            scores[rows[same]], ids[rows[same]] = _best(every[same], s[same], k, model, opened)
    return scores, ids


def _tangent(
    queries: Rows, raw: Float, model: Model, opened: NDArray[np.bool_], allowed: NDArray[np.bool_] | None,
    num_threads: int,
) -> tuple[tuple[NDArray[np.int64], Float], NDArray[np.bool_]]:  # fmt: skip
    """The best items by the tangent and their raw scores (M, C); where no other is among the k = raw.shape[1] best."""
    settings, index, k = model.settings, model.gated.index, raw.shape[1]
    slopes = np.array([settings.slope(bank) for bank in settings.banks])
    closed = int((~opened).sum())
    at = np.where(raw[:, -1] > 0, raw[:, -1], 1.0)[:, None] if closed else np.ones((len(raw), 1))
    steep = slopes[opened].sum() + closed / at
    weights = (np.where(opened, slopes.sum(), 0.0) / steep).astype(np.float32)
    augmented = np.hstack([queries, weights])
    best, ids = index.search(augmented, max(_LEAST, 2 * k), filter=allowed, num_threads=num_threads)
    biases = np.stack(model.correction.biases, axis=1).astype(np.float32)
    s = best - np.einsum("mct,mt->mc", biases[ids], weights, dtype=np.float64)
    logs = _logarithms(ids, s, model, opened)[0]
    counts = sum(
        math.log(model.stats[bank].count) for bank, is_open in zip(settings.banks, opened, strict=True) if is_open
    )
    kth = -np.sort(-np.where((s > 0) | (closed == 0), logs, -np.inf), axis=1)[:, min(k, logs.shape[1]) - 1]
    proved = ids[:, -1] < 0  # there is no other
    last = np.where(proved, 0.0, best[:, -1])
    others = steep[:, 0] * last - counts + closed * (np.log(at[:, 0]) - 1)
    # Biases are float32: the slack is many times their rounding.
    return (ids, s), proved | (kth >= others + 1e-5 * (1 + np.abs(others)))


def _logarithms(
    ids: NDArray[np.int64], s: Float, model: Model, opened: NDArray[np.bool_]
) -> tuple[Float, NDArray[np.int64], NDArray[np.bool_]]:
    """Logarithms of the sizes of the released scores, their signs, and where there is an item."""
    settings, logs, sign = model.settings, np.zeros_like(s), np.ones(s.shape, np.int64)
    there = (ids >= 0) & ~np.isneginf(s)
    for bank, is_open in zip(settings.banks, opened, strict=True):
        slope, stats = settings.slope(bank), model.stats[bank]
        if is_open:
            logs += slope * np.where(there, s, 0.0) - stats.lse[stats.betas.index(slope)][ids]
        else:
            with np.errstate(divide="ignore"):
                logs += np.log(np.abs(np.where(there, s, 1.0)))
            sign *= np.where(there & (s < 0), -1, 1)
    return np.where(there, logs, -np.inf), sign, there


def _best(
    ids: NDArray[np.int64], s: Float, k: int, model: Model, opened: NDArray[np.bool_]
) -> tuple[Float, NDArray[np.int64]]:
    """(M, k) the best of these items by their released scores, each once, equal ones by the smaller id."""
    order = np.argsort(ids, axis=1, kind="stable")
    ids, s = np.take_along_axis(ids, order, axis=1), np.take_along_axis(s, order, axis=1)
    again = np.zeros(ids.shape, dtype=bool)
    again[:, 1:] = ids[:, 1:] == ids[:, :-1]
    logs, sign, there = _logarithms(ids, s, model, opened)
    with np.errstate(over="ignore"):
        values = np.where(there & ~again, sign * np.exp(logs), -np.inf)
    order = np.lexsort((-sign * logs, -values), axis=1)[:, :k]
    values, ids = (np.take_along_axis(one, order, axis=1) for one in (values, ids))
    missing = ((0, 0), (0, k - values.shape[1]))
    values = np.pad(values, missing, constant_values=-np.inf)
    return values, np.where(np.isneginf(values), -1, np.pad(ids, missing, constant_values=-1))
