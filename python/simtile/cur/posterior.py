"""The engine behind "auto": one linear-Gaussian model of a query's scores, corrected by every score that is bought.

    s_i = θ · φ_i + ε,    φ_i = [v_i | f_i | m_i | 1],    θ ~ N(θ₀, Λ),    ε ~ N(0, σ²)

v_i are the factors of the build queries' scores, f_i the features (a dual encoder's embedding, words), m_i the item
mean. A priori the query's scores are b + m_i + γ <e_q − ē, f_i> + u(e_q) · v_i: features and popularity, weighted as
the build queries taught, and the factors that queries with such features had. These say which kind of items a query
likes, not which of them, and would crowd the best ones out of a first list: it follows features and popularity alone.
Each exact score is an observation; the posterior mean of θ is one latent vector, and the next round its top-k over all
items.

AXN's ridge regression is the case without f and m, a Gaussian process over embeddings the case without v.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simtile.cur.item_matrix import ItemMatrix
from simtile.cur.latent import posterior_latent
from simtile.cur.learned import Learned
from simtile.cur.rounds import Ids, Scored

__all__ = ["Choice", "Posterior"]

_MEAN_SLOPE_VARIANCE = 0.05
"""Queries differ in how much of an item's mean they follow: a standard deviation of about a fifth around all of it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the build queries decide by leave-one-query-out (:mod:`simtile.cur.choose`).

    Attributes
    ----------
    rerank : bool      spend the whole budget on the retriever's list
    first_share : float      of the budget that goes to the prior's own list, before anything is learned
    noise : float      σ² in units of the model's residual variance: the ridge
    embedding : float      how far θ may leave the query's own features, in units of the mean of (γ e)²
    """

    rerank: bool = False
    first_share: float = 0.5
    noise: float = 1.0
    embedding: float = 1.0


class Posterior:
    """Latents of the model for a batch of queries; `first` (M, D) are those of the first list, before any score.

    Parameters
    ----------
    features : ItemMatrix (n, D)      φ, from `features_of`
    learned : Learned
    queries : (M, e) or None      features of the queries
    choice : Choice
    centred : bool      the target has the item mean taken out
    """

    def __init__(
        self,
        features: ItemMatrix,
        learned: Learned,
        queries: NDArray[np.floating] | None,
        n_queries: int,
        choice: Choice,
        centred: bool,
    ) -> None:
        self._phi = features.vectors
        d = learned.factors.shape[1]
        e = self._phi.shape[1] - d - 2
        mean = np.zeros((n_queries, d + e + 2))
        variance = np.ones(d + e + 2)
        if e and queries is not None:
            mean[:, :d], variance[:d] = (queries - learned.query_mean) @ learned.latent_map, learned.latent_variance
            mean[:, d : d + e] = learned.weights * (queries - learned.query_mean)
            variance[d : d + e] = choice.embedding * learned.weight_variance
        elif e:
            variance[d : d + e] = 0.0
        mean[:, -2], variance[-2] = (0.0, 0.0) if centred else (1.0, _MEAN_SLOPE_VARIANCE)
        mean[:, -1], variance[-1] = learned.offset, learned.offset_variance + learned.residual_variance
        self._mean, self._variance = mean, variance
        self.first = mean.copy()
        self.first[:, :d] = 0.0
        # A noiseless model would make the system singular where two items have equal features.
        scale = learned.residual_variance + 1e-6 * (learned.factor_variance + learned.offset_variance)
        self._noise = max(choice.noise * scale, 1e-12)

    def __call__(self, queries: Ids, scored: Scored) -> NDArray[np.floating]:
        phi = self._phi[scored.ids].astype(np.float64)
        return posterior_latent(scored.values, phi, self._mean[queries], self._variance, self._noise)

    def is_settled(
        self, queries: Ids, scored: Scored, k: int, best: Ids, predicted: NDArray[np.floating]
    ) -> NDArray[np.bool_]:
        """Whether no unscored item's prediction comes within three standard deviations of the k-th best score.

        Checked for the items with the best predictions; an item far below them with a far larger deviation is missed.
        """
        values = np.where(np.isfinite(scored.values), scored.values, -np.inf)
        if values.shape[1] < k:
            return np.zeros(len(queries), np.bool_)
        kth = -np.partition(-values, k - 1, axis=1)[:, k - 1]
        upper = predicted + 3.0 * self._deviation(scored, best)
        return np.asarray((upper < kth[:, None]).all(axis=1) & np.isfinite(kth))

    def _deviation(self, scored: Scored, ids: Ids) -> NDArray[np.float64]:
        """Posterior standard deviations (B, m) of the scores of items (B, m)."""
        root = np.sqrt(self._variance)
        there = np.isfinite(scored.values)[..., None]
        known = np.where(there, self._phi[scored.ids] * root, 0.0)
        new = self._phi[ids] * root
        gram = np.matmul(known, np.swapaxes(known, 1, 2)) + self._noise * np.eye(known.shape[1])
        cross = np.matmul(known, np.swapaxes(new, 1, 2))
        explained = (cross * np.linalg.solve(gram, cross)).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum((new**2).sum(axis=2) - explained, 0.0) + self._noise))


def features_of(learned: Learned, items: NDArray[np.floating] | None) -> ItemMatrix:
    """φ (n, d + e + 2) of all items."""
    n = len(learned.mean)
    parts = [learned.factors, np.zeros((n, 0)) if items is None else items, learned.mean[:, None], np.ones((n, 1))]
    return ItemMatrix(np.concatenate([np.asarray(part, np.float32) for part in parts], axis=1))
