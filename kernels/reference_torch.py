"""The torch twin of :mod:`simtile.kernels.reference`: dense, differentiable, on any device and in any float dtype.

Names, arguments and definitions are those of the NumPy specification. The twin supplies the gradients that the engines
are tested against, and it is what float64 inputs run through. Memory is O(M * N), as in plain torch. 16-bit inputs are
computed in float32, like in the engines, and get 16-bit gradients.

An empty row or column has log-sum-exp -inf and zero gradient. ``torch.logsumexp`` and ``torch.logaddexp`` give NaN
gradients there (exp(-inf - (-inf))), so both see a finite stand-in whose gradient is cut off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from simtile.kernels.reference import Direction, Link, Reduction


class Mask(TypedDict, total=False):
    """Which pairs are left out: the keyword arguments of :func:`left_out`."""

    x_ids: Tensor | None
    y_ids: Tensor | None
    ids_mode: Literal["exclude", "only"]
    exclude: tuple[Tensor, Tensor] | None
    skip_diagonal: bool
    threshold: Tensor | None
    guide: tuple[Tensor, Tensor] | None


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def scores(
    x: Tensor, y: Tensor, scale: float | Tensor = 1.0, x_bias: Tensor | None = None, y_bias: Tensor | None = None
) -> Tensor:
    """(M, N) scores of all pairs; gradients reach x, y, a tensor scale and the biases."""
    s = scale * (_at_least_float32(x) @ _at_least_float32(y).T)
    if x_bias is not None:
        s = s + x_bias[:, None]
    if y_bias is not None:
        s = s + y_bias[None, :]
    return s


def left_out(
    M: int,
    N: int,
    *,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    ids_mode: Literal["exclude", "only"] = "exclude",
    exclude: tuple[Tensor, Tensor] | None = None,
    skip_diagonal: bool = False,
    threshold: Tensor | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
    s: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """(M, N) bool, True where a pair is left out; see :func:`simtile.kernels.reference.left_out`."""
    out = torch.zeros(M, N, dtype=torch.bool, device=device)
    if x_ids is not None and y_ids is not None:
        equal = x_ids[:, None] == y_ids[None, :]
        out |= equal if ids_mode == "exclude" else ~equal
    if exclude is not None:
        indptr, indices = exclude
        rows = torch.arange(M, device=device).repeat_interleave(indptr.diff().to(device))
        out[rows, indices.to(device)] = True
    if skip_diagonal:
        out.fill_diagonal_(True)
    if threshold is not None:
        compared = scores(*guide) if guide is not None else s
        assert compared is not None
        out |= compared.detach() > threshold[:, None]
    return out


def logsumexp(s: Tensor, dim: int) -> Tensor:
    """``torch.logsumexp`` whose gradient is zero, not NaN, where everything is -inf."""
    empty = torch.isneginf(s).all(dim)
    return torch.logsumexp(s.masked_fill(empty.unsqueeze(dim), 0.0), dim).masked_fill(empty, -math.inf)


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)); ``torch.nn.functional.softplus`` returns z above 20."""
    return -F.logsigmoid(-z)


def reduce_rows(loss: Tensor, weight: Tensor | None, reduction: Reduction) -> Tensor:
    """Weighted reduction of row losses (M,); the weights are constants without a gradient."""
    w = torch.ones_like(loss) if weight is None else weight.detach().to(loss.dtype)
    weighted = (w * loss).masked_fill(w == 0, 0.0)
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return weighted.sum()
    total = w.sum()
    return weighted.sum() / total.masked_fill(total == 0, 1.0)


def pair_lse(
    x: Tensor,
    y: Tensor,
    *,
    scale: float | Tensor = 1.0,
    x_bias: Tensor | None = None,
    y_bias: Tensor | None = None,
    direction: Direction = "row",
    **mask: Unpack[Mask],
) -> tuple[Tensor | None, Tensor | None]:
    """Log-sum-exp over the kept pairs of each row (M,) and each column (N,); None for a direction not asked for."""
    s = scores(x, y, scale, x_bias, y_bias)
    s = s.masked_fill(left_out(len(x), len(y), s=s, device=x.device, **mask), -math.inf)
    row = logsumexp(s, 1) if direction != "column" else None
    column = logsumexp(s, 0) if direction != "row" else None
    return row, column


def pair_nll(
    x: Tensor,
    y: Tensor,
    target: Tensor | None,
    *,
    weight: Tensor | None = None,
    link: Link = "lse",
    reduction: Reduction = "mean",
    scale: float | Tensor = 1.0,
    x_bias: Tensor | None = None,
    y_bias: Tensor | None = None,
    **mask: Unpack[Mask],
) -> Tensor:
    """Negative log-likelihood of target scores (M,); see :func:`simtile.kernels.reference.pair_nll`.

    Rows of weight 0 get no gradient and pass none on, even where x or the target holds NaN. With ``target=None`` the
    partners' scores are taken from x, y, scale and the biases, and their gradients reach these.
    """
    M, N = len(x), len(y)
    dead = torch.zeros(M, dtype=torch.bool, device=x.device) if weight is None else weight == 0
    x = x.masked_fill(dead[:, None], 0.0)  # a gradient of 0 times NaN would reach y
    if target is None:
        assert N >= M
        target = scale * (_at_least_float32(x) * _at_least_float32(y[:M])).sum(1)
        target = target + (0.0 if x_bias is None else x_bias) + (0.0 if y_bias is None else y_bias[:M])
        mask["skip_diagonal"] = True
    lse, _ = pair_lse(x, y, scale=scale, x_bias=x_bias, y_bias=y_bias, **mask)
    assert lse is not None and target.shape == (M,)
    z = (lse - target).masked_fill(dead | torch.isneginf(lse), -math.inf if link == "softplus" else 0.0)
    return reduce_rows(softplus(z) if link == "softplus" else z, weight, reduction)


def pair_softplus(
    x: Tensor,
    y: Tensor,
    *,
    reduction: Reduction = "mean",
    scale: float | Tensor = 1.0,
    x_bias: Tensor | None = None,
    y_bias: Tensor | None = None,
    **mask: Unpack[Mask],
) -> Tensor:
    """Sum of softplus(s_ij) over each row's kept pairs (M,), their sum, or their sum / M."""
    s = scores(x, y, scale, x_bias, y_bias)
    drop = left_out(len(x), len(y), s=s, device=x.device, **mask)
    return reduce_rows(softplus(s).masked_fill(drop, 0.0).sum(1), None, reduction)


def nested_lse(
    x: Tensor,
    y: Tensor,
    dims: Sequence[int],
    *,
    scale: float | Tensor = 1.0,
    normalize: bool = True,
    direction: Direction = "row",
    **mask: Unpack[Mask],
) -> tuple[Tensor | None, Tensor | None]:
    """:func:`pair_lse` on each prefix of the coordinates: (K, M) and/or (K, N), in the order of ``dims``."""
    x, y = _at_least_float32(x), _at_least_float32(y)
    prefixes = [(x[:, :d], y[:, :d]) for d in dims]
    if normalize:
        prefixes = [(F.normalize(a), F.normalize(b)) for a, b in prefixes]
    lse = [pair_lse(a, b, scale=scale, direction=direction, **mask) for a, b in prefixes]
    rows = [row for row, _ in lse if row is not None]
    columns = [column for _, column in lse if column is not None]
    return torch.stack(rows) if rows else None, torch.stack(columns) if columns else None


def merge_lse(a: Tensor, b: Tensor) -> Tensor:
    """Log-sum-exp of the union of two disjoint blocks from their own; zero gradient where both are -inf."""
    empty = torch.isneginf(a) & torch.isneginf(b)
    return torch.logaddexp(a.masked_fill(empty, 0.0), b.masked_fill(empty, 0.0)).masked_fill(empty, -math.inf)
