"""Corrected scores of candidate lists, and how much a list is likely to miss."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from simtile.hubness import _compat
from simtile.hubness._checks import ShortListWarning
from simtile.hubness._methods import GATED, PAIRWISE
from simtile.hubness._model import Model
from simtile.hubness._pairwise import SAME, moments, scale_of
from simtile.hubness._summary import Rows, prepare
from simtile.hubness.reference import log_normal_cdf
from simtile.kernels.reference import Stats

Float = NDArray[np.float64]
Ids = NDArray[np.int64]

USUAL_K = 10
MOST_MISSING = 0.1
"""Share of the corrected best expected beyond the lists from which a warning is given."""
SAMPLE = 64
"""Queries from which the share is estimated."""


def rerank(
    model: Model, scores: Float, ids: Ids, queries: Rows | None, k: int | None, *, compat: str | None
) -> tuple[Float, Ids]:
    """(M, k) corrected scores and items of lists (M, C), descending, equal ones by id, padded with -inf and -1."""
    settings = model.settings
    absent = ids < 0
    items = np.where(absent, 0, ids)
    gates = np.ones((len(ids), 1), dtype=bool)
    if settings.method in GATED:
        gated = model.gated
        best = np.take_along_axis(items, np.where(absent, -np.inf, scores).argmax(axis=1)[:, None], axis=1)[:, 0]
        gates = gated.gates(best)
        scale, bias = np.ones(len(model.gallery)), np.stack(model.correction.biases)
        opened = [np.where(g[:, None], b[items], 0.0) for g, b in zip(gates.T, bias, strict=True)]
        new = gated.level(scores + sum(opened), gates)
    elif settings.method in PAIRWISE:
        new = _pairwise(model, scores, items, queries)
    else:
        scale = np.ones(len(model.gallery)) if model.correction.scale is None else model.correction.scale
        bias = np.stack(model.correction.biases)
        new = scale[items] * scores + bias[0][items]
    new = np.where(absent, -np.inf, new)
    order = np.lexsort((np.where(absent, np.iinfo(np.int64).max, ids), -new), axis=1)[:, :k]
    values, found = np.take_along_axis(new, order, axis=1), np.take_along_axis(ids, order, axis=1)
    if settings.method not in PAIRWISE:
        missing = expected_missing(
            scores, ids, new, scale, bias, gates, min(k or USUAL_K, USUAL_K), model.stats["query"]
        )
        if missing > MOST_MISSING:
            warnings.warn(
                f"lists of {ids.shape[1]} candidates: about {missing:.0%} of the corrected best "
                f"{min(k or USUAL_K, USUAL_K)} are expected beyond them; take longer lists, or augment() the index",
                ShortListWarning,
                stacklevel=3,
            )
    return (_compat.released(values, gates, model) if compat else values), found


def _pairwise(model: Model, scores: Float, items: Ids, queries: Rows | None) -> Float:
    settings = model.settings
    if settings.method == "mutual_proximity":
        if queries is None:
            raise ValueError("queries: mutual_proximity needs them for their own moments, got None")
        stats = model.stats["query"]
        mean, sd = moments(model.corpus.gallery, prepare(queries, model.how.metric))
        other = (scores - stats.mean[items]) / np.sqrt(np.maximum(stats.var[items], 1e-18))
        return log_normal_cdf((scores - mean[:, None]) / sd[:, None]) + log_normal_cdf(other)
    if settings.method == "globally_corrected":
        top = model.stats["query"].top
        same = SAME * scale_of(top)
        ranks = np.stack([(top[:, row] > s + same).sum(axis=0) for row, s in zip(items, scores, strict=True)])
        return np.asarray(scores / (1 + np.abs(scores)) / 2.1 - ranks)
    raise ValueError(f"method: {settings.method!r} needs more than candidate lists, use search")


def expected_missing(
    scores: Float, ids: Ids, new: Float, scale: Float, bias: Float, gates: NDArray[np.bool_], k: int, stats: Stats
) -> float:
    """Estimated share of the corrected k best that the lists do not hold.

    An item beyond a list enters the best if its raw score is below the list's last, s_C, and above
    need_g = (t - b_g) / a_g, t the k-th corrected score: with what the bank says of its scores, the probability
    Φ((s_C - mean_g) / sd_g) - Φ((need_g - mean_g) / sd_g).
    """
    complete = np.flatnonzero((ids >= 0).all(axis=1))
    if ids.shape[1] >= len(scale) or not len(complete):
        return 0.0
    if ids.shape[1] <= k:
        return 1.0
    sd = np.sqrt(np.maximum(stats.var, 1e-18))
    entering = []
    for i in complete[:: max(1, len(complete) // SAMPLE)]:
        offset = np.where(gates[i][:, None], bias, bias.mean(axis=1, keepdims=True)).sum(axis=0)
        need = (np.sort(new[i])[-k] - offset) / scale
        last = scores[i].min()
        chance = _normal_cdf((last - stats.mean) / sd) - _normal_cdf((np.minimum(need, last) - stats.mean) / sd)
        chance[ids[i]] = 0.0
        entering.append(min(1.0, chance.sum() / k))
    return float(np.mean(entering))


def _normal_cdf(z: Float) -> Float:
    """Φ(z) to 1e-3, enough for an estimate."""
    return np.asarray(0.5 * (1 + np.tanh(0.7978845608 * (z + 0.044715 * z**3))))
