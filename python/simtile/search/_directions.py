"""The directions along which vectors are longest, and how many of them a first pass should multiply.

Rows are rotated so that the leading coordinates hold most of their lengths (principal component analysis, not centred).
Any rotation gives the right results, so that a sample is enough to choose one; see ``rust/src/directions.rs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simtile.search._state import Metric

LEAST_COLUMNS, LEAST_ITEMS = 64, 4096
"""Fewer leave nothing to leave out, or nothing to learn from."""

_SAMPLE, _PROBES = 4096, 64
# A direction with so much of all squared lengths, the mean's as a rule, would set the scale of the codes.
_HEAVY, _MOST_HEAVY = 0.05, 2
_STEP = 16
# Cycles of one core for a pair: its product of four codes, and where the leading directions do not exclude it (Zen 4).
_WORD, _LEFT = 1 / 16, 45.0
# Coordinates in float32 beside codes of all; the share of their costs that the leading ones may take.
_FLOATS_OF_CODES, _WORTH = 5, 0.9


class Directions(NamedTuple):
    """Rows of ``matrix`` (D, D) are orthonormal: the first ``sizes[0]`` stay in float32, the next ``sizes[1]`` lead."""

    matrix: NDArray[np.float32]
    sizes: tuple[int, int]


def principal(
    rows: NDArray[np.float32], metric: Metric, scale: NDArray[np.float32] | None, bias: NDArray[np.float32] | None
) -> Directions | None:
    """Those of ``rows`` (N, D), as many leading as make a search cheapest; None where that saves less than a tenth."""
    if rows.shape[1] < LEAST_COLUMNS or len(rows) < LEAST_ITEMS:
        return None
    step = max(1, -(-len(rows) // _SAMPLE))
    sample = rows[::step]
    alpha = np.ones(len(sample), np.float32) if scale is None else scale[::step]
    beta = np.zeros(len(sample), np.float32) if bias is None else bias[::step]
    largest = np.float32(np.abs(sample).max(initial=0.0))
    if np.isfinite(largest):
        unit = largest or np.float32(1.0)
        sample = sample / unit
    else:  # the store, which looks at all rows, says which
        unit, sample = np.float32(1.0), np.zeros_like(sample)
    if metric == "cosine":
        norms = np.linalg.norm(sample, axis=1, keepdims=True)
        sample = sample / np.where(norms > 0, norms, np.float32(1.0))
    elif metric == "l2":
        beta = -0.5 * np.square(sample).sum(axis=1)
    else:
        with np.errstate(over="ignore"):  # a bias beside which products are nothing
            beta = beta / unit / unit
    lengths, axes = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    axes = np.ascontiguousarray(axes[:, ::-1].T)
    shares = lengths[::-1] / max(lengths.sum(), np.finfo(np.float64).tiny)
    floats = int((shares[:_MOST_HEAVY] >= _HEAVY).sum())
    leading, cost = _cheapest(sample @ axes.T.astype(np.float32), floats, alpha, beta)
    if cost > _WORTH * (len(axes) / 4 + _FLOATS_OF_CODES) * _WORD:
        return None
    # Within each group directions are mixed: codes share one scale, which coordinates of one size use best.
    generator = np.random.default_rng(0)
    for begin, end in ((floats, floats + leading), (floats + leading, len(axes))):
        mixed, _ = np.linalg.qr(generator.standard_normal((end - begin, end - begin)))
        axes[begin:end] = mixed @ axes[begin:end]
    return Directions(np.ascontiguousarray(axes, dtype=np.float32), (floats, leading))


def _cheapest(
    coordinates: NDArray[np.float32], floats: int, alpha: NDArray[np.float32], beta: NDArray[np.float32]
) -> tuple[int, float]:
    """How many directions after the first ``floats`` should lead, and what they and the pairs that they leave cost."""
    n, d = coordinates.shape
    picked = np.arange(0, n, max(1, n // _PROBES))[:_PROBES]
    probes = coordinates[picked]
    scores = alpha * (probes @ coordinates.T) + beta
    scores[np.arange(len(picked)), picked] = -np.inf
    # The best of some thousands is at the quantile of the tenth of some tens of thousands.
    threshold = scores.max(axis=1, initial=-np.inf)[:, None]
    squares = np.square(coordinates)
    left_over = np.cumsum(squares[:, ::-1], axis=1)[:, ::-1]
    product = probes[:, :floats] @ coordinates[:, :floats].T
    best, cost, begin = d - floats - 1, float("inf"), floats
    for end in range(floats + _STEP, d, _STEP):
        product += probes[:, begin:end] @ coordinates[:, begin:end].T
        tails = np.sqrt(left_over[:, end])
        upper = alpha * product + np.abs(alpha) * np.outer(tails[picked], tails) + beta
        now = ((end - floats) / 4 + floats + 1) * _WORD + float((upper > threshold).mean()) * _LEFT
        begin = end
        if now < cost:
            best, cost = end - floats, now
    return best, cost
