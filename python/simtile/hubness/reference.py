"""Every hubness correction in a few lines of dense float64: the specification the streaming code is tested against.

    s (M, N)         scores of M queries with the N items of a gallery; larger is better
    bank (B, N)      scores of a bank of B other queries with the same gallery
    items (B', N)    scores of a bank of B' other items with the same gallery ("gallery bank")

Each function returns corrected scores (M, N). Those of the affine methods are ``a_j * s_ij + b_j`` up to a term of the
query, which changes no ranking; where the streaming code leaves such a term out, the function says so.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simtile.kernels.reference import logsumexp

Float: TypeAlias = NDArray[np.float64]

LEAST_SQUARED_DISTANCE = 1e-6
"""Squared distances of unit vectors are at least this: below, float32 scores hold nothing but their rounding."""


def soft_mean(bank: Float, beta: float) -> Float:
    """(N,) (log Σ_b exp(beta * s_bj) - log B) / beta over the bank: the mean at beta → 0, the maximum at ∞."""
    return (logsumexp(beta * bank, axis=0) - math.log(len(bank))) / beta


def inverted_softmax(s: Float, bank: Float, beta: float = 20.0) -> Float:
    """s - soft_mean: log(exp(beta * s) / mean_b exp(beta * s_b)) / beta. Smith et al. 2017, arXiv:1702.03859."""
    return s - soft_mean(bank, beta)


def activated(bank: Float, activation_k: int = 1) -> NDArray[np.bool_]:
    """(N,) the items that are among the ``activation_k`` best of at least one bank row; ties by the smaller id."""
    best = np.argsort(-bank, axis=1, kind="stable")[:, :activation_k]
    return np.isin(np.arange(bank.shape[1]), best)


def gate(s: Float, bank: Float, activation_k: int = 1) -> NDArray[np.bool_]:
    """(M, 1) whether the raw best item of a query is an activated one."""
    return np.asarray(activated(bank, activation_k)[np.argmax(s, axis=1)])[:, None]


def dynamic_inverted_softmax(s: Float, bank: Float, beta: float = 20.0, activation_k: int = 1) -> Float:
    """Inverted softmax where the gate is open, else raw scores. Bogolin et al. 2022 (QB-Norm), arXiv:2112.12777.

    Ungated rows subtract the mean correction of all items, so that both kinds of rows are on one scale.
    """
    correction = soft_mean(bank, beta)
    return s - np.where(gate(s, bank, activation_k), correction, correction.mean())


def dual_is(s: Float, bank: Float, items: Float, beta: float = 20.0, beta_gallery: float = 20.0) -> Float:
    """The product of two inverted softmaxes, its logarithm over both betas. Wang et al. 2023, arXiv:2310.11612."""
    return s - (beta * soft_mean(bank, beta) + beta_gallery * soft_mean(items, beta_gallery)) / (beta + beta_gallery)


def dual_dis(
    s: Float, bank: Float, items: Float, beta: float = 20.0, beta_gallery: float = 20.0, activation_k: int = 1
) -> Float:
    """:func:`dual_is` with a gate for each factor, both by the raw best item. Wang et al. 2023, arXiv:2310.11612."""
    total = np.zeros_like(s)
    for scores, slope in ((bank, beta), (items, beta_gallery)):
        correction = soft_mean(scores, slope)
        total += slope * np.where(gate(s, scores, activation_k), correction, correction.mean())
    return s - total / (beta + beta_gallery)


def top_mean(s: Float, k: int) -> Float:
    """(N,) the mean of the k largest of each column."""
    return np.asarray(-np.sort(-s, axis=0)[:k].mean(axis=0))


def csls(s: Float, bank: Float, k: int = 10) -> Float:
    """2 s - r_q - r_g, r the mean of the k nearest across (r_q: the query's). Conneau et al. 2018, arXiv:1710.04087."""
    return 2 * s - top_mean(s.T, k)[:, None] - top_mean(bank, k)


def nnn(s: Float, bank: Float, k: int = 128, alpha: float = 0.75) -> Float:
    """s - alpha * (mean of the k best bank scores). Chowdhury et al. 2024 (NNN), arXiv:2410.24114."""
    return s - alpha * top_mean(bank, k)


def distribution_normalization(s: Float, bank: Float, alpha: float = 0.5) -> Float:
    """s - alpha * (mean of all bank scores), which is <bank mean, g>. Zhou et al. 2023, arXiv:2302.11084.

    <q - alpha * mean(bank), g - alpha * mean(gallery)> differs by a term of the query only.
    """
    return np.asarray(s - alpha * bank.mean(axis=0))


def squared_distance(s: Float) -> Float:
    """Of unit vectors, from their inner products."""
    return np.maximum(2 - 2 * s, LEAST_SQUARED_DISTANCE)


def local_scaling(s: Float, bank: Float, k: int = 10) -> Float:
    """exp(-d² / (sigma_q sigma_g)), sigma the distance to the k-th nearest. Zelnik-Manor & Perona 2004, NIPS 17.

    Ranks as -d² / sigma_g.
    """
    sigma_q = np.sqrt(np.sort(squared_distance(s), axis=1)[:, k - 1])
    sigma_g = np.sqrt(np.sort(squared_distance(bank), axis=0)[k - 1])
    return np.exp(-squared_distance(s) / np.outer(sigma_q, sigma_g))


def nicdm(s: Float, bank: Float, k: int = 10) -> Float:
    """-d / sqrt(mu_q mu_g), mu the mean distance to the k nearest. Jegou et al. 2007, CVPR. Ranks as -d² / mu_g."""
    mu_q = np.sort(np.sqrt(squared_distance(s)), axis=1)[:, :k].mean(axis=1)
    mu_g = np.sort(np.sqrt(squared_distance(bank)), axis=0)[:k].mean(axis=0)
    return -np.sqrt(squared_distance(s) / np.outer(mu_q, mu_g))


def log_normal_cdf(z: ArrayLike) -> Float:
    """log Φ(z) with small relative error at every finite z: below -20 by the asymptotic series, above 0 by the tail."""
    z = np.asarray(z, dtype=np.float64)
    tail = np.minimum(z, -20.0)
    series = 1 - 1 / tail**2 + 3 / tail**4 - 15 / tail**6

    def body(v: float) -> float:
        upper = 0.5 * math.erfc(abs(v) / math.sqrt(2))
        return math.log1p(-upper) if v > 0 else math.log(upper)

    near = np.vectorize(body, otypes=[float])(np.maximum(z, -20.0))
    far = -(tail**2) / 2 - np.log(-tail * math.sqrt(2 * math.pi)) + np.log(series)
    return np.asarray(np.where(z < -20.0, far, near))


def mutual_proximity(s: Float, bank: Float) -> Float:
    """log Φ((s - mu_q) / sd_q) + log Φ((s - mu_g) / sd_g): both normal approximations, as if independent.

    Moments are those of a query over the gallery and of an item over the bank. Schnitzer et al. 2012, JMLR 13:2871.
    """
    own = (s - s.mean(axis=1, keepdims=True)) / s.std(axis=1, keepdims=True)
    return log_normal_cdf(own) + log_normal_cdf((s - bank.mean(axis=0)) / bank.std(axis=0))


def share_below(s: Float, others: Float) -> Float:
    """(M, N) share of the rows of ``others`` (B, N) whose score in column j is below s_ij."""
    columns = [np.searchsorted(np.sort(o), column, side="left") for o, column in zip(others.T, s.T, strict=True)]
    return np.stack(columns, axis=1) / len(others)


def mutual_proximity_empirical(s: Float, bank: Float) -> Float:
    """Share of items farther from the query, times share of the bank farther from the item. Schnitzer et al. 2012.

    Between two sets there are no points to take the joint share of, hence the form for independent shares.
    """
    return np.asarray(share_below(s.T, s.T).T * share_below(s, bank))


def dissim_local(queries: ArrayLike, gallery: ArrayLike, bank: ArrayLike, k: int = 10) -> Float:
    """-(|q - g|² - |q - c(q)|² - |g - c(g)|²), c the centroid of the k nearest across, from vectors.

    Hara et al. 2016 (DisSimLocal), AAAI 30. The second term is the query's own.
    """
    q, g, b = (np.asarray(x, dtype=np.float64) for x in (queries, gallery, bank))

    def squared(x: Float, y: Float) -> Float:
        return np.asarray(np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0.0))

    def apart(x: Float, across: Float) -> Float:
        nearest = np.argsort(squared(x, across), axis=1, kind="stable")[:, :k]
        return np.asarray(((x - across[nearest].mean(axis=1)) ** 2).sum(axis=1))

    return -(squared(q, g) - apart(q, g)[:, None] - apart(g, b))


def globally_corrected(s: Float, bank: Float) -> Float:
    """-(number of bank rows that score an item above the query does), ties by s. Dinu et al. 2015, arXiv:1412.6568.

    The tie is broken by adding s scaled into [0, 1).
    """
    above = np.stack([(bank > row).sum(axis=0) for row in s]).astype(np.float64)
    low, high = s.min(), s.max()
    return np.asarray((s - low) / (high - low + 1) - above)


def dual_softmax(s: Float, beta: float = 20.0) -> Float:
    """log(s * M * softmax over the queries of beta * s), -inf where s <= 0. CAMoE, Cheng et al. 2021, arXiv:2109.04290.

    Transductive: the queries of one call are its bank.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        log_s = np.where(s > 0, np.log(s), -np.inf)
    return np.asarray(log_s + beta * (s - soft_mean(s, beta)))


def sinkhorn(s: Float, bank: Float, tau: float = 0.05, iterations: int = 10) -> Float:
    """s + tau * v, v the items' log potential of exp(bank / tau) with uniform marginals, centred.

    Sinkhorn & Knopp 1967; as a bank correction in Wang et al. 2023, arXiv:2310.11612. One iteration ranks as inverted
    softmax with beta = 1 / tau. Test-time: the queries are their own bank.
    """
    u = np.zeros(len(bank))
    v = np.zeros(bank.shape[1])
    for _ in range(iterations):
        v = -logsumexp(bank / tau + u[:, None], axis=0)
        u = -logsumexp(bank / tau + v, axis=1)
    return np.asarray(s + tau * (v - v.mean()))
