"""ANNCUR, ADACUR and AXN as their papers have them, each as a rule for latent vectors (:mod:`simtile.cur.latent`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simtile.cur.latent import pinv_latent, ridge_latent
from simtile.cur.rounds import Ids, Scored

__all__ = ["AxnLatent", "PinvLatent"]


class _NeverSettled:
    """The papers spend the whole budget."""

    def is_settled(self, queries: Ids, scored: Scored, k: int, best: Ids, predicted: NDArray[np.floating]) -> None:
        return None


class PinvLatent(_NeverSettled):
    """C · pinv(S) for each query: ANNCUR with one round of common anchors, ADACUR with anchors that rounds choose.

    Parameters
    ----------
    columns : (n, Q)      the anchor queries' scores of all items, an item a row
    ridge : float      see `pinv_latent`
    """

    def __init__(self, columns: NDArray[np.floating], ridge: float) -> None:
        self._columns, self._ridge = columns, ridge

    def __call__(self, queries: Ids, scored: Scored) -> NDArray[np.floating]:
        there = np.isfinite(scored.values)
        if there.all() and (scored.ids == scored.ids[0]).all():  # common anchors: one inverse serves every query
            return pinv_latent(scored.values, self._anchors(scored.ids[0]), ridge=self._ridge)
        latents = np.zeros((len(queries), self._columns.shape[1]))
        for latent, ids, values, known in zip(latents, scored.ids, scored.values, there, strict=True):
            if known.any():
                latent[:] = pinv_latent(values[known], self._anchors(ids[known]), ridge=self._ridge)
        return latents

    def _anchors(self, ids: Ids) -> NDArray[np.float64]:
        return np.asarray(self._columns[ids].T, dtype=np.float64)


class AxnLatent(_NeverSettled):
    """Least squares on the item factors of the scored items.

    Parameters
    ----------
    factors : (n, d)      V
    ridge : float
    """

    def __init__(self, factors: NDArray[np.floating], ridge: float) -> None:
        self._factors, self._ridge = factors, ridge

    def __call__(self, queries: Ids, scored: Scored) -> NDArray[np.floating]:
        latents = np.zeros((len(queries), self._factors.shape[1]))
        for latent, ids, values in zip(latents, scored.ids, scored.values, strict=True):
            known = np.isfinite(values)
            latent[:] = ridge_latent(values[known], self._factors[ids[known]].astype(np.float64), ridge=self._ridge)
        return latents
