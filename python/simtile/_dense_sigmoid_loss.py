"""The sigmoid loss of a small batch, scores stored: as few torch calls as the loss and its gradients need.

    loss = Σ_ij softplus(t_ij),  t_ij = -s_ij for positives and s_ij for all others,  dloss/ds_ij = ±sigmoid(t_ij)

Plain torch spends more on labels, logsigmoid and its gradient than the three products cost. The products run in the
inputs' dtype, as in plain torch.
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

LINEAR = 40.0
"""softplus(t) is t beyond this: the rest, e^-40, is below an ulp in float64 too."""


def sigmoid_loss(
    query: Tensor, key: Tensor, scale: Scale, bias: Scale, ids: tuple[Tensor, Tensor] | None, *,
    factor: float, normalize: bool,
) -> Tensor:  # fmt: skip
    """``factor`` times the sum over all pairs; query (M, D), key (N, D)."""
    want = wanted(query, key, scale, bias)
    if not any(want):
        return _forward(query, key, scale, bias, ids, factor, normalize, want)[0]
    total: Tensor = apply(_DenseSigmoidLoss, query, key, scale, bias, ids, factor, normalize, want)
    return total


class _DenseSigmoidLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, scale: Scale, bias: Scale, ids: tuple[Tensor, Tensor] | None,
        factor: float, normalize: bool, want: Want,
    ) -> Tensor:  # fmt: skip
        total, found = _forward(query, key, scale, bias, ids, factor, normalize, want)
        ctx.save_for_backward(*found[:4])
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *chained(ctx.saved_tensors, grad), None, None, None, None


@in_own_precision
def _forward(
    query: Tensor, key: Tensor, scale: Scale, bias: Scale, ids: tuple[Tensor, Tensor] | None, factor: float,
    normalize: bool, want: Want,
) -> tuple[Tensor, Gradients]:  # fmt: skip
    x, y, x_norm, y_norm = query, key, None, None
    if normalize:
        x, x_norm = unit(query)
        y, y_norm = unit(key)
    rows = x  # times a scale that is a tensor, unless another rounding would cost accuracy
    if x.dtype == torch.bfloat16:
        s = torch.mm(x, y.t()).float().mul_(scale).add_(bias)
    else:
        if isinstance(scale, Tensor):
            rows = x * scale
        shift = bias.to(x.device) if isinstance(bias, Tensor) else x.new_full((), bias)
        s = torch.addmm(shift, rows, y.t(), alpha=scale if isinstance(scale, float) else 1.0)
    positive = None
    if ids is not None:
        positive = ids[0][:, None] == ids[1]
        positive.diagonal().fill_(True)
    s = _turned(s, positive)
    total = _total(torch.nn.functional.softplus(s, threshold=LINEAR)).mul_(factor)
    if not any(want):
        return total, Gradients()
    coefficient = _turned(s.sigmoid_(), positive)
    dbias = _total(coefficient).mul_(factor) if want.x_bias else None
    # A known scale is multiplied in together with the factor, in the products where it costs nothing.
    share = factor * (scale if isinstance(scale, float) else 1.0)
    if x.dtype == torch.bfloat16:  # rounded once, at the size it has
        coefficient, share = coefficient.mul_(share).to(x.dtype), 1.0
    dx = dy = dscale = None
    if want.x or want.scale:
        dx = product(coefficient, y, share)
        if want.scale:
            dscale = (dx * x).sum(dtype=loss_dtype(x))
        if want.x:
            dx = finished(dx, scale, query, x, x_norm)
    if want.y:
        dy = finished(product(coefficient.t(), rows, share), 1.0 if rows is not x else scale, key, y, y_norm)
    return total, Gradients(dx if want.x else None, dy, dscale, dbias)


def _total(values: Tensor) -> Tensor:
    """The sum, in an order that does not depend on the number of threads."""
    return values.sum() if values.numel() <= 16384 else ordered_sum(values.sum(1))


def _turned(values: Tensor, positive: Tensor | None) -> Tensor:
    """The positives' values with the other sign; without a mask these are the pairs (i, i)."""
    if positive is not None:
        return torch.where(positive, -values, values)
    values.diagonal().neg_()
    return values
