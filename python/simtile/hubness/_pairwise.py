"""Search by corrections that are not affine: blocks of queries, and the full formula where it can matter alone.

For each query a cheap bound, one or two comparisons a pair, leaves the few items that can be among its k best; these
are scored in float64. Scores of a block of queries with the gallery take at most ``BLOCK_BYTES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile import _core
from simtile.hubness._methods import Settings
from simtile.hubness._summary import How, Rows, prepare
from simtile.hubness.reference import log_normal_cdf
from simtile.kernels.reference import Stats

Float: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.int64]
Candidates: TypeAlias = Callable[[int, Rows], tuple[Ids, Float] | None]
"""(number of the query, its scores (N,)) -> items that may be among the best, corrected scores; None: unknown."""

BLOCK_BYTES = 32 << 20
SAME = 4e-7
"""Scores of unit vectors closer than this count as equal where ranks are counted: two float32 sums of one product."""


@dataclass(frozen=True)
class Corpus:
    """What a pairwise method looks at besides the query."""

    gallery: Rows
    """As prepared for the metric."""
    stats: Stats | None
    bank: Sequence[Rows]
    how: How


def search(
    queries: Rows, k: int, settings: Settings, corpus: Corpus, allowed: NDArray[np.bool_] | None
) -> tuple[Float, Ids]:
    """(M, k) corrected scores, descending, and items, padded with -inf and -1; queries as prepared for the metric."""
    best = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
    n = len(corpus.gallery)
    if n == 0 or k == 0:
        return best
    candidates = _METHODS[settings.method](queries, k, settings, corpus)
    step = max(1, BLOCK_BYTES // (4 * n))
    for i0 in range(0, len(queries), step):
        scores = _core.pair_scores(queries[i0 : i0 + step], corpus.gallery, num_threads=corpus.how.num_threads)
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        found = [candidates(i, row) for i, row in enumerate(scores, start=i0)]
        deep = [r for r, one in enumerate(found) if one is None]
        if deep:
            for r, values in zip(deep, deep_values(scores[deep], settings, corpus), strict=True):
                found[r] = np.arange(n), values
        for r, one in enumerate(found):
            assert one is not None
            ids, values = one
            keep = np.isfinite(scores[r, ids]) & (values > -np.inf)
            ids, values = ids[keep], values[keep]
            order = np.lexsort((ids, -values))[:k]
            best[0][i0 + r, : len(order)], best[1][i0 + r, : len(order)] = values[order], ids[order]
    return best


def top_items(row: NDArray[np.floating], k: int) -> Ids:
    """The k largest of a row, in no order."""
    if k >= len(row):
        return np.arange(len(row))
    return np.argpartition(row, len(row) - k)[len(row) - k :]


def moments(gallery: Rows, queries: Rows) -> tuple[Float, Float]:
    """(M,) mean and standard deviation of each query's scores with a gallery, without the scores: <q, mean>, qᵀ C q."""
    wide = gallery.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((gallery.shape[1],) * 2)
    for j in range(0, len(gallery), 8192):
        off = gallery[j : j + 8192] - wide
        covariance += off.T @ off
    # A stack of one row each: BLAS may sum the last rows of a product in another order than the same rows elsewhere.
    q = queries.astype(np.float64)[:, None]
    variance = (q @ (covariance / len(gallery)) @ q.swapaxes(1, 2))[:, 0, 0]
    return (q @ wide)[:, 0], np.sqrt(np.maximum(variance, 1e-18))


def _mutual_proximity(queries: Rows, k: int, settings: Settings, corpus: Corpus) -> Candidates:
    assert corpus.stats is not None
    own_mean, own_sd = moments(corpus.gallery, queries)
    mean, sd = corpus.stats.mean, np.sqrt(np.maximum(corpus.stats.var, 1e-18))
    slope, offset = (1 / sd).astype(np.float32), (-mean / sd).astype(np.float32)

    def exact(i: int, row: Rows, ids: Ids) -> Float:
        s = row[ids].astype(np.float64)
        return log_normal_cdf((s - own_mean[i]) / own_sd[i]) + log_normal_cdf((s - mean[ids]) / sd[ids])

    def candidates(i: int, row: Rows) -> tuple[Ids, Float]:
        z = row * slope + offset
        first = top_items(np.minimum(z, (row - own_mean[i]) / own_sd[i]), k)
        least = np.sort(exact(i, row, first))[0]
        # The product of two probabilities is at most either: both must reach the k-th best product so far.
        z_least = _inverse_log_normal_cdf(least) - 1e-3
        ids = np.flatnonzero((z > z_least) & (row > own_mean[i] + own_sd[i] * z_least))
        ids = np.union1d(ids, first)
        return ids, exact(i, row, ids)

    return candidates


def _inverse_log_normal_cdf(value: float) -> float:
    """z with log Φ(z) = value, by the upper tail, where most of the digits are; -inf once Φ underflows."""
    upper = -math.expm1(value)
    if not 0.0 < upper < 1.0:
        return 37.0 if upper <= 0.0 else -math.inf
    return -NormalDist().inv_cdf(upper)


def _dual_softmax(queries: Rows, k: int, settings: Settings, corpus: Corpus) -> Candidates:
    beta = settings.beta
    _, lse, _ = _core.pair_lse(
        np.ascontiguousarray(queries), corpus.gallery, beta,
        want_row=False, want_column=True, num_threads=corpus.how.num_threads,
    )  # fmt: skip
    assert lse is not None
    offset = math.log(max(len(queries), 1)) - lse.astype(np.float64)
    slope_offset = (offset / beta).astype(np.float32)

    def exact(row: Rows, ids: Ids) -> Float:
        s = row[ids].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(s > 0, np.log(s) + beta * s + offset[ids], -np.inf))

    def candidates(_: int, row: Rows) -> tuple[Ids, Float]:
        affine = row + slope_offset
        first = top_items(np.where(row > 0, affine, -np.inf), k)
        largest = max(float(row.max()), 1e-30)
        least = exact(row, first).min()
        margin = 1e-5 * max(1.0, float(np.abs(affine[first]).max()))
        ids = np.flatnonzero(affine > (least - math.log(largest)) / beta - margin)
        return ids, exact(row, ids)

    return candidates


def _ranked(queries: Rows, k: int, settings: Settings, corpus: Corpus) -> Candidates:
    assert corpus.stats is not None
    top, count = corpus.stats.top, corpus.stats.count
    same = SAME * scale_of(top)
    empirical = settings.method == "mutual_proximity_empirical"

    def candidates(_: int, row: Rows) -> tuple[Ids, Float] | None:
        order = np.sort(row) if empirical else None
        wanted = min(k, int(np.isfinite(row).sum()))
        level = min(8, len(top))
        while True:
            # Every item that fewer than ``level`` bank rows score above this query.
            ids = np.flatnonzero(np.isfinite(row) & (row >= top[level - 1] - same))
            s = row[ids].astype(np.float64)
            rank = np.asarray((top[:, ids] > (s - same if empirical else s + same)).sum(axis=0), np.float64)
            values = ranked_value(s, rank, count, order, same)
            if level >= count:
                return ids, values
            if (rank < level).sum() >= wanted:
                # A share of 1 - level / count at most is left for the others.
                least = np.sort(values)[-wanted] if wanted else -np.inf
                if order is None or least >= 1 - level / count:
                    return ids, values
            if level == len(top):
                return None
            level = min(4 * level, len(top))

    return candidates


def ranked_value(s: Float, rank: Float, count: int, order: Rows | None, same: float) -> Float:
    """Corrected scores from the bank's ranks: by rank, then by s; with a row's sorted scores the product of shares."""
    if order is None:
        # Ranks are whole: a fraction of less than half that rises with the score breaks ties.
        return np.asarray(s / (1 + np.abs(s)) / 2.1 - rank)
    return np.asarray(np.searchsorted(order, s - same) / len(order) * (1 - rank / count))


def deep_values(scores: Rows, settings: Settings, corpus: Corpus) -> Float:
    """(F, N) corrected scores of rows (F, N) whose ranks go deeper than what is kept of items: the bank, once more."""
    assert corpus.stats is not None
    empirical = settings.method == "mutual_proximity_empirical"
    same = SAME * scale_of(corpus.stats.top)
    bank = np.concatenate([prepare(part, corpus.how.metric) for part in corpus.bank])
    edges = scores - np.float32(same) if empirical else scores + np.float32(same)
    ranks = np.empty(scores.shape)
    step = max(1, BLOCK_BYTES // (4 * len(bank)))
    for j in range(0, scores.shape[1], step):
        part = corpus.gallery[j : j + step]
        columns = np.sort(_core.pair_scores(part, bank, num_threads=corpus.how.num_threads), axis=1)
        for c, column in enumerate(columns, start=j):
            ranks[:, c] = len(bank) - np.searchsorted(column, edges[:, c], side="right")
    orders = [np.sort(row) if empirical else None for row in scores]
    # What is not allowed is -inf here, and left out by the caller.
    rows = zip(np.where(np.isfinite(scores), scores, 0.0), ranks, orders, strict=True)
    return np.stack([ranked_value(s.astype(np.float64), rank, len(bank), order, same) for s, rank, order in rows])


def scale_of(top: Float) -> float:
    """The largest score of the bank in absolute value, at least 1."""
    return max(1.0, float(np.abs(top[np.isfinite(top)]).max(initial=0.0)))


_METHODS: dict[str, Callable[[Rows, int, Settings, Corpus], Candidates]] = {
    "mutual_proximity": _mutual_proximity,
    "mutual_proximity_empirical": _ranked,
    "globally_corrected": _ranked,
    "dual_softmax": _dual_softmax,
}
