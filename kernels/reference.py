"""Every reduction of simtile in a few lines of float64 NumPy: the specification the engines are tested against.

    s[i, j] = scale * <x[i], y[j]> + x_bias[i] + y_bias[j]        x (M, D), y (N, D), s (M, N)

Each function builds the dense ``s``, masks the pairs that are left out, and reduces, so memory is O(M * N). Inputs are
anything ``np.asarray`` takes and are computed in float64; arguments are checked by the public layer, the asserts here
only keep the specification honest. A row (or column) without any kept pair is *empty*: its log-sum-exp is -inf.

How an engine executes a job (``plan``, ``process_group``) has no meaning here and is no argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Direction = Literal["row", "column", "both"]
Link = Literal["lse", "softplus"]
Reduction = Literal["mean", "sum", "none"]


class Mask(TypedDict, total=False):
    """Which pairs are left out: the keyword arguments of :func:`left_out`."""

    x_ids: ArrayLike | None
    y_ids: ArrayLike | None
    ids_mode: Literal["exclude", "only"]
    exclude: tuple[ArrayLike, ArrayLike] | None
    skip_diagonal: bool
    threshold: ArrayLike | None
    guide: tuple[ArrayLike, ArrayLike] | None


class TopK(NamedTuple):
    """The best scores of each row, descending, and the columns they stand in."""

    scores: Float  # (M, k), padded with -inf
    ids: Int  # (M, k), padded with -1


@dataclass(frozen=True)
class Stats:
    """What Ny columns look like from a bank of ``count`` rows; two of them merge exactly (:func:`merge_stats`)."""

    betas: tuple[float, ...]
    ks: tuple[int, ...]
    count: int
    lse: Float  # (len(betas), Ny)
    mean: Float  # (Ny,)
    var: Float  # (Ny,), of the population: divided by count
    top: Float  # (max(ks), Ny), the best scores in descending order, padded with -inf: the state behind topk_mean

    @property
    def topk_mean(self) -> Float:
        """(len(ks), Ny): the mean of the k best scores. ValueError while the bank holds fewer than max(ks) rows."""
        if self.count < max(self.ks, default=0):
            raise ValueError(f"ks: at most the {self.count} rows of the bank, got {max(self.ks)}")
        return np.stack([self.top[:k].mean(axis=0) for k in self.ks]) if self.ks else np.empty((0, len(self.mean)))


def _f64(values: ArrayLike) -> Float:
    return np.asarray(values, dtype=np.float64)


def scores(
    x: ArrayLike, y: ArrayLike, scale: float = 1.0, x_bias: ArrayLike | None = None, y_bias: ArrayLike | None = None
) -> Float:
    """(M, N) scores of all pairs; a bias of None is 0."""
    x, y = _f64(x), _f64(y)
    assert x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]
    s: Float = scale * (x @ y.T)
    if x_bias is not None:
        s = s + _f64(x_bias)[:, None]
    if y_bias is not None:
        s = s + _f64(y_bias)[None, :]
    assert s.shape == (len(x), len(y))
    return s


def left_out(
    M: int,
    N: int,
    *,
    x_ids: ArrayLike | None = None,
    y_ids: ArrayLike | None = None,
    ids_mode: Literal["exclude", "only"] = "exclude",
    exclude: tuple[ArrayLike, ArrayLike] | None = None,
    skip_diagonal: bool = False,
    threshold: ArrayLike | None = None,
    guide: tuple[ArrayLike, ArrayLike] | None = None,
    s: Float | None = None,
) -> NDArray[np.bool_]:
    """(M, N), True where a pair is left out; a pair stays only if no rule takes it out.

    ``x_ids (M,)`` and ``y_ids (N,)``, both or neither: pairs with equal ids go ("exclude") or are all that may stay
    ("only"). ``exclude``: CSR ``(indptr (M + 1,), indices)``, the columns left out of each row, duplicates allowed.
    ``skip_diagonal``: pair (i, i) goes for i < min(M, N). ``threshold (M,)``: pair (i, j) goes if <guide[0][i],
    guide[1][j]> or, without a guide, its score ``s`` is above threshold[i].
    """
    assert (x_ids is None) == (y_ids is None) and ids_mode in ("exclude", "only")
    out = np.zeros((M, N), dtype=bool)
    if x_ids is not None:
        equal = np.asarray(x_ids)[:, None] == np.asarray(y_ids)[None, :]
        out |= equal if ids_mode == "exclude" else ~equal
    else:
        assert ids_mode == "exclude", "ids_mode='only' needs ids"
    if exclude is not None:
        indptr, indices = (np.asarray(part, dtype=np.int64) for part in exclude)
        assert len(indptr) == M + 1 and indptr[0] == 0 and indptr[-1] == len(indices)
        out[np.repeat(np.arange(M), np.diff(indptr)), indices] = True
    if skip_diagonal:
        own = np.arange(min(M, N))
        out[own, own] = True
    if threshold is not None:
        compared = scores(*guide) if guide is not None else s
        assert compared is not None and compared.shape == (M, N)
        out |= compared > _f64(threshold)[:, None]
    return out


def logsumexp(s: Float, axis: int) -> Float:
    """log(sum(exp(s))) along an axis, shifted by the maximum; -inf where nothing or only -inf is summed."""
    top = s.max(axis=axis, initial=-np.inf, keepdims=True)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return _f64(np.log(np.exp(s - shift).sum(axis=axis)) + shift.squeeze(axis))


def softplus(z: Float) -> Float:
    """log(1 + exp(z)) to full relative accuracy at both ends (``torch.nn.functional.softplus`` cuts at 20)."""
    return _f64(np.logaddexp(0.0, z))


def unit(x: ArrayLike) -> Float:
    """Rows divided by max(norm, 1e-12) as in ``torch.nn.functional.normalize``: a zero row stays zero."""
    x = _f64(x)
    return _f64(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))


def reduce_rows(loss: Float, weight: ArrayLike | None, reduction: Reduction) -> Float:
    """Weighted reduction of row losses (M,): none = w * loss, sum = Σ w * loss, mean = Σ w * loss / Σ w.

    A row of weight 0 adds exactly 0, even where its loss is NaN; the mean is 0 when Σ w is 0.
    """
    assert reduction in ("mean", "sum", "none")
    w = np.ones(len(loss)) if weight is None else _f64(weight)
    assert w.shape == loss.shape
    weighted = np.where(w == 0, 0.0, w * loss)
    if reduction == "none":
        return weighted
    total = weighted.sum()
    if reduction == "mean":
        total = total / w.sum() if w.sum() != 0 else 0.0
    return _f64(total)


def pair_lse(
    x: ArrayLike,
    y: ArrayLike,
    *,
    scale: float = 1.0,
    x_bias: ArrayLike | None = None,
    y_bias: ArrayLike | None = None,
    direction: Direction = "row",
    **mask: Unpack[Mask],
) -> tuple[Float | None, Float | None]:
    """Log-sum-exp over the kept pairs of each row (M,) and each column (N,); None for a direction not asked for."""
    assert direction in ("row", "column", "both")
    s = scores(x, y, scale, x_bias, y_bias)
    s = np.where(left_out(*s.shape, s=s, **mask), -np.inf, s)
    row = logsumexp(s, axis=1) if direction != "column" else None
    column = logsumexp(s, axis=0) if direction != "row" else None
    return row, column


def pair_nll(
    x: ArrayLike,
    y: ArrayLike,
    target: ArrayLike | None,
    *,
    weight: ArrayLike | None = None,
    link: Link = "lse",
    reduction: Reduction = "mean",
    scale: float = 1.0,
    x_bias: ArrayLike | None = None,
    y_bias: ArrayLike | None = None,
    **mask: Unpack[Mask],
) -> Float:
    """Negative log-likelihood of target scores t (M,) against L, the rows' log-sum-exp over the kept pairs.

    "lse": loss_i = L_i - t_i, for a target that is among the kept pairs (or left out on purpose, as in decoupled
    contrastive learning, arXiv:2110.06848). "softplus": loss_i = softplus(L_i - t_i) = -log(e^t / (e^t + e^L)), for a
    target that was left out of L and is added back; keeps its relative accuracy near saturation.

    ``target=None``: the pair's own partner, t_i = s_ii with its biases (N >= M), and pair (i, i) is left out of L.
    A row without any kept pair has loss 0 under both links; it still counts in the mean by its weight.
    """
    assert link in ("lse", "softplus")
    if target is None:
        target = np.diagonal(scores(x, y, scale, x_bias, y_bias))
        mask["skip_diagonal"] = True
    t = _f64(target)
    lse, _ = pair_lse(x, y, scale=scale, x_bias=x_bias, y_bias=y_bias, **mask)
    assert lse is not None and t.shape == lse.shape
    loss = np.where(np.isneginf(lse), 0.0, softplus(lse - t) if link == "softplus" else lse - t)
    return reduce_rows(loss, weight, reduction)


def pair_softplus(
    x: ArrayLike,
    y: ArrayLike,
    *,
    reduction: Reduction = "mean",
    scale: float = 1.0,
    x_bias: ArrayLike | None = None,
    y_bias: ArrayLike | None = None,
    **mask: Unpack[Mask],
) -> Float:
    """Sum of softplus(s_ij) over each row's kept pairs (M,), their sum, or their sum / M; an empty row gives 0."""
    s = scores(x, y, scale, x_bias, y_bias)
    rows = np.where(left_out(*s.shape, s=s, **mask), 0.0, softplus(s)).sum(axis=1)
    return reduce_rows(rows, None, reduction)


def pair_topk(
    x: ArrayLike,
    y: ArrayLike,
    k: int,
    *,
    y_scale: ArrayLike | None = None,
    y_bias: ArrayLike | None = None,
    exclude: tuple[ArrayLike, ArrayLike] | None = None,
) -> TopK:
    """The k columns of each row with the largest y_scale_j * <x_i, y_j> + y_bias_j, and these values.

    Equal values: the smaller id first. A value of -inf counts as left out. Fewer than k columns: padded with -inf, -1.
    """
    s = scores(x, y)
    if y_scale is not None:
        s = s * _f64(y_scale)
    if y_bias is not None:
        s = s + _f64(y_bias)
    s = np.where(left_out(*s.shape, exclude=exclude), -np.inf, s)
    return _best(s, np.broadcast_to(np.arange(s.shape[1]), s.shape), k)


def _best(s: Float, ids: Int, k: int) -> TopK:
    """The k best of the candidates (scores and ids, both (M, C)), ties by the smaller id."""
    assert k >= 1
    missing = max(k - s.shape[1], 0)
    s = np.pad(s, ((0, 0), (0, missing)), constant_values=-np.inf)
    ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    order = np.lexsort((ids, -s), axis=1)[:, :k]
    best = np.take_along_axis(s, order, axis=1)
    return TopK(best, np.where(np.isneginf(best), -1, np.take_along_axis(ids, order, axis=1)).astype(np.int64))


def pair_stats(
    bank: ArrayLike, y: ArrayLike, *, betas: Sequence[float] = (), ks: Sequence[int] = (), partial: bool = False
) -> Stats:
    """Statistics of <bank_i, y_j> over all rows i of a bank (Nb, D), for every row j of y (Ny, D).

    lse[b] = log Σ_i exp(betas[b] * s_ij); topk_mean[m] = mean of the ks[m] largest s_ij; mean and population variance.
    Raises ValueError for a k above Nb, unless ``partial``: then the bank is a block of a larger one and the statistics
    are for :func:`merge_stats`. A bank of no rows (lse -inf, mean and variance 0) is neutral under merging.
    """
    s = scores(bank, y)
    if not partial and max(ks, default=0) > len(s):
        raise ValueError(f"ks: at most the {len(s)} rows of the bank, got {max(ks)}")
    assert all(k >= 1 for k in ks)
    count = max(len(s), 1)
    mean = s.sum(axis=0) / count
    return Stats(
        betas=tuple(betas),
        ks=tuple(ks),
        count=len(s),
        lse=np.stack([logsumexp(beta * s, axis=0) for beta in betas]) if betas else np.empty((0, s.shape[1])),
        mean=mean,
        var=((s - mean) ** 2).sum(axis=0) / count,
        top=_largest(s, max(ks, default=0)),
    )


def _largest(s: Float, k: int) -> Float:
    """(k, Ny): the k largest of each column (C, Ny) in descending order, padded with -inf."""
    s = np.pad(s, ((0, max(k - len(s), 0)), (0, 0)), constant_values=-np.inf)
    return -np.sort(-s, axis=0)[:k]


def nested_lse(
    x: ArrayLike,
    y: ArrayLike,
    dims: Sequence[int],
    *,
    scale: float = 1.0,
    normalize: bool = True,
    direction: Direction = "row",
    **mask: Unpack[Mask],
) -> tuple[Float | None, Float | None]:
    """:func:`pair_lse` on each prefix of the coordinates: (K, M) and/or (K, N), in the order of ``dims``.

    ``normalize`` divides every prefix by its own norm. Matryoshka representation learning, arXiv:2205.13147.
    """
    x, y = _f64(x), _f64(y)
    assert all(1 <= d <= x.shape[1] for d in dims)
    prefix = unit if normalize else _f64
    lse = [pair_lse(prefix(x[:, :d]), prefix(y[:, :d]), scale=scale, direction=direction, **mask) for d in dims]
    rows = [row for row, _ in lse if row is not None]
    columns = [column for _, column in lse if column is not None]
    return (
        np.reshape(rows, (len(dims), len(x))) if direction != "column" else None,
        np.reshape(columns, (len(dims), len(y))) if direction != "row" else None,
    )


def merge_lse(a: ArrayLike, b: ArrayLike) -> Float:
    """Log-sum-exp of the union of two disjoint blocks from their own; -inf is neutral."""
    return _f64(np.logaddexp(_f64(a), _f64(b)))


def merge_topk(a: TopK, b: TopK) -> TopK:
    """The k best of two disjoint blocks of columns; the ids must already count over the whole, not per block."""
    assert a.scores.shape == b.scores.shape
    return _best(np.hstack([a.scores, b.scores]), np.hstack([a.ids, b.ids]), a.scores.shape[1])


def merge_stats(a: Stats, b: Stats) -> Stats:
    """Statistics of two disjoint blocks of the bank together (Chan, Golub & LeVeque 1979 for the variance)."""
    assert (a.betas, a.ks) == (b.betas, b.ks)
    count = a.count + b.count
    share_a, share_b = a.count / max(count, 1), b.count / max(count, 1)
    return Stats(
        betas=a.betas,
        ks=a.ks,
        count=count,
        lse=merge_lse(a.lse, b.lse),
        mean=share_a * a.mean + share_b * b.mean,
        var=share_a * a.var + share_b * b.var + share_a * share_b * (a.mean - b.mean) ** 2,
        top=_largest(np.vstack([a.top, b.top]), len(a.top)),
    )
