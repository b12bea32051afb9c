"""InfoNCE of a small batch, scores stored: as few torch calls as the loss and its gradient need.

At a batch of 100 a call costs more than what it computes, and plain torch makes some sixty of them for normalising,
logits, cross-entropy and their backward passes. Here half as many make loss and gradients in the forward pass. The
products run in the inputs' dtype, as in plain torch.

    p = softmax(s),  loss_i = -log p_ii,  dloss_i/ds_ij = p_ij,  dloss_i/ds_ii = -Σ_{j≠i} p_ij

As a sum of small numbers the last keeps its relative accuracy near saturation, where p_ii - 1 has no correct digit. The
value of the loss does not: it is as exact as plain torch's, some 1e-7 of the largest score.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from simtile._dense_products import chained, finished, product, unit
from simtile._first_order import apply, first_order
from simtile._ops import in_own_precision, ordered_sum, wanted
from simtile._pairs import Gradients, Scale, Want, loss_dtype
from simtile._torch_engine import LOG2_E


def info_nce(
    query: Tensor, key: Tensor, scale: Scale, weight: Tensor | None, ids: tuple[Tensor, Tensor] | None, *,
    symmetric: bool, normalize: bool,
) -> Tensor:  # fmt: skip
    """Mean of the losses, or with weights their weighted sum, of the pairs (i, i); query (M, D), key (N, D), N >= M."""
    want = wanted(query, key, scale)
    if not any(want):
        return _forward(query, key, scale, weight, ids, symmetric, normalize, want)[0]
    total: Tensor = apply(_DenseInfoNCE, query, key, scale, weight, ids, symmetric, normalize, want)
    return total


class _DenseInfoNCE(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, scale: Scale, weight: Tensor | None, ids: tuple[Tensor, Tensor] | None,
        symmetric: bool, normalize: bool, want: Want,
    ) -> Tensor:  # fmt: skip
        total, found = _forward(query, key, scale, weight, ids, symmetric, normalize, want)
        ctx.save_for_backward(*found[:3])
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *chained(ctx.saved_tensors, grad), None, None, None, None, None


@in_own_precision
def _forward(
    query: Tensor, key: Tensor, scale: Scale, weight: Tensor | None, ids: tuple[Tensor, Tensor] | None,
    symmetric: bool, normalize: bool, want: Want,
) -> tuple[Tensor, Gradients]:  # fmt: skip
    M = query.shape[0]
    x, y, x_norm, y_norm = query, key, None, None
    if normalize:
        x, x_norm = unit(query)
        y, y_norm = unit(key)
    if isinstance(scale, float) and x.dtype != torch.bfloat16:
        s = product(x, y.t(), scale)
    else:
        s = torch.mm(x, y.t()).to(loss_dtype(x)).mul_(scale)
    if ids is not None:
        drop = ids[0][:, None] == ids[1]
        drop.diagonal().fill_(False)
        s.masked_fill_(drop, -torch.inf)
    loss, p = _without_own(s, 1)
    q = None
    if symmetric:
        column_loss, q = _without_own(s[:, :M], 0)
        loss = loss.add_(column_loss).mul_(0.5)
    total = ordered_sum(loss * weight) if weight is not None else ordered_sum(loss).div_(max(M, 1))
    if not any(want):
        return total, Gradients()
    # A known scale is multiplied in together with the weights, in the products where it costs nothing.
    share = (0.5 if symmetric else 1.0) * (scale if isinstance(scale, float) else 1.0)
    factor = 1.0
    if weight is not None:
        p.mul_((weight * share)[:, None])
        if q is not None:
            p[:, :M].add_(q.mul_(weight * share))
    else:
        if q is not None:
            p[:, :M].add_(q)
        factor = share / max(M, 1)
        if x.dtype == torch.bfloat16:  # rounded once, at the size it has
            p.mul_(factor)
            factor = 1.0
    if p.dtype != x.dtype:
        p = p.to(x.dtype)
    dx = dy = dscale = None
    if want.x or want.scale:
        dx = product(p, y, factor)
        if want.scale:
            dscale = (dx * x).sum(dtype=loss_dtype(x))
        if want.x:
            dx = finished(dx, scale, query, x, x_norm)
    if want.y:
        dy = finished(product(p.t(), x, factor), scale, key, y, y_norm)
    return total, Gradients(dx, dy, dscale)


def _without_own(s: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Loss of each pair (i, i) along ``dim`` (M,), and its derivatives by s."""
    log_p = torch.log_softmax(s, dim)
    loss = log_p.diagonal().neg()
    p = log_p.mul_(LOG2_E).exp2_()
    diagonal = p.diagonal().zero_()
    diagonal.sub_(p.sum(dim))
    return loss, p
