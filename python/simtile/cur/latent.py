"""From a few exact scores of a query to a latent vector that predicts all its scores. Small float64 algebra.

    C  (t,)      exact scores of the query with its anchor items
    R  (Q, n)    exact scores of the anchor queries with all items;  S = R[:, anchors] (Q, t)
    V  (n, d)    item factors of an approximation G ≈ U Vᵀ;  V_a = V[anchors] (t, d)

Every search method of :mod:`simtile.cur` predicts ``latent @ items.T``; they differ in the two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pinv_latent", "posterior_latent", "ridge_latent"]

Matrix = NDArray[np.float64]


def pinv_latent(values: Matrix, anchors: Matrix, *, ridge: float = 0.0) -> Matrix:
    """ANNCUR and ADACUR: the weights of the anchor queries, C · pinv(S), so that the prediction is C · pinv(S) · R.

    Parameters
    ----------
    values : (..., t)      C
    anchors : (Q, t)      S
    ridge : float      0 is the papers' pseudo-inverse; above, C (Sᵀ S + λ I)⁻¹ Sᵀ with λ = ridge · mean eigenvalue,
        which keeps its head when t is near Q or S is nearly singular

    Returns
    -------
    (..., Q)

    Notes
    -----
    Yadav et al. 2022, arXiv:2210.12579 (ANNCUR); 2023, arXiv:2305.02996 (ADACUR). Singular values below float32's
    rounding of the largest are dropped: R is stored in float32, and the inverse of rounding noise is noise.
    """
    q, t = anchors.shape
    if t <= q:
        return np.asarray(values @ _inverse(anchors.T @ anchors, ridge) @ anchors.T)
    # The same by the push-through identity, with the smaller system: C Sᵀ (S Sᵀ + λ I)⁻¹.
    return np.asarray(values @ anchors.T @ _inverse(anchors @ anchors.T, ridge * q / t))


def _inverse(gram: Matrix, ridge: float) -> Matrix:
    """(G + ridge · mean eigenvalue · I)⁻¹, or G's pseudo-inverse for ridge 0."""
    values, vectors = np.linalg.eigh(gram)
    values += ridge * max(float(values.mean()), 0.0)
    smallest = (float(np.finfo(np.float32).eps) * len(gram)) ** 2 * float(values[-1]) if ridge == 0.0 else 0.0
    kept = values > smallest
    return np.asarray((vectors[:, kept] / values[kept]) @ vectors[:, kept].T)


def ridge_latent(values: Matrix, factors: Matrix, *, ridge: float) -> Matrix:
    """AXN: u = argmin ‖C − V_a u‖² + ridge ‖u‖², the query's factors (d,). Yadav et al. 2024, arXiv:2405.03651."""
    d = factors.shape[1]
    if ridge == 0.0:
        return np.asarray(np.linalg.lstsq(factors, values, rcond=None)[0])
    return np.asarray(np.linalg.solve(factors.T @ factors + ridge * np.eye(d), factors.T @ values))


def posterior_latent(values: Matrix, features: Matrix, mean: Matrix, variance: Matrix, noise: float) -> Matrix:
    """The posterior mean of θ in  C = Φ θ + ε,  θ ~ N(mean, diag(variance)),  ε ~ N(0, noise)  (Kriging form).

    Parameters
    ----------
    values : (M, t)      NaN where a score is missing: it then has no influence
    features : (M, t, D)      Φ of each query's scored items
    mean : (M, D)
    variance : (D,)
    noise : float      variance of ε, above 0

    Returns
    -------
    (M, D)

    Notes
    -----
    θ = mean + diag(variance) Φᵀ (Φ diag(variance) Φᵀ + noise I)⁻¹ (C − Φ mean), or the same with the (D, D) system when
    that is the smaller one. AXN's ridge regression, regularised CUR and a Gaussian process with a linear kernel are
    all of this form.
    """
    there = np.isfinite(values)
    whole = bool(there.all())
    phi = features if whole else np.where(there[..., None], features, 0.0)
    predicted = np.matmul(phi, mean[..., None])[..., 0]
    rest = (values if whole else np.where(there, values, 0.0)) - predicted
    scaled = phi * np.sqrt(variance)
    t, d = scaled.shape[1:]
    turned = np.swapaxes(scaled, 1, 2)
    if t <= d:
        gram = np.matmul(scaled, turned)
        step = np.matmul(turned, np.linalg.solve(gram + noise * np.eye(t), rest[..., None]))
    else:
        gram = np.matmul(turned, scaled)
        step = np.linalg.solve(gram + noise * np.eye(d), np.matmul(turned, rest[..., None]))
    return np.asarray(mean + np.sqrt(variance) * step[..., 0])
