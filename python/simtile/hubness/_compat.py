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
    queries: Rows, k: int, model: Model, gates: NDArray[np.bool_], allowed: NDArray[np.bool_] | None
) -> tuple[Float, NDArray[np.int64]]:
    """(M, k) of DualDIS: f_1 * f_2, each an inverted softmax where its gate is open, else the raw score."""
    settings, gallery = model.settings, model.corpus.gallery
    best = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
    lse = [model.stats[bank].lse[model.stats[bank].betas.index(settings.slope(bank))] for bank in settings.banks]
    step = max(1, BLOCK_BYTES // (16 * max(len(gallery), 1)))
    for i0 in range(0, len(queries), step):
        s = (queries[i0 : i0 + step] @ gallery.T).astype(np.float64)
        values = np.ones_like(s)
        for t, bank in enumerate(settings.banks):
            opened = gates[i0 : i0 + step, t]
            values[~opened] *= s[~opened]
            with np.errstate(over="ignore"):
                values[opened] *= np.exp(settings.slope(bank) * s[opened] - lse[t])
        if allowed is not None:
            values[:, ~allowed] = -np.inf
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(values, order, axis=1)
        best[0][i0 : i0 + step, : order.shape[1]] = found
        best[1][i0 : i0 + step, : order.shape[1]] = np.where(np.isneginf(found), -1, order)
    return best
