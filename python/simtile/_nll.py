"""The negative log-likelihood of checked inputs: fused with its gradients where the plan can, by row where not."""

from __future__ import annotations

import torch
from torch import Tensor

from simtile import _ops
from simtile._pairs import Pairs, Scale
from simtile._plan import choose
from simtile._reductions import reduced, row_weights, without_padding
from simtile.kernels.reference_torch import softplus


def nll(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
    target: Tensor | None, weight: Tensor | None, link: str, reduction: str, plan: str,
) -> Tensor:  # fmt: skip
    """:func:`simtile.functional.pair_nll` after its checks; ``pairs`` skip the diagonal where ``target`` is None."""
    if weight is not None:
        weight = weight.detach()
        x = without_padding(x, weight)
    chosen = choose(x, y, scale, one_sided=reduction != "none", plan=plan)
    if reduction != "none" and chosen in ("dense", "chunked"):
        weight = row_weights(x, weight, reduction)
        return _ops.pair_nll(x, y, scale, x_bias, y_bias, pairs, target=target, weight=weight, link=link, plan=chosen)
    own = target is None
    row, _, scores = _ops.pair_lse(
        x, y, scale, x_bias, y_bias, pairs, row=True, column=False, positive=own, plan=chosen
    )
    right = scores if own else target
    assert row is not None and right is not None
    return reduced(link_loss(row, right, link), weight, reduction)


def link_loss(lse: Tensor, target: Tensor, link: str) -> Tensor:
    """(M,) lse - target, or its softplus; 0 for an empty row."""
    empty = torch.isneginf(lse)
    z = lse.masked_fill(empty, 0.0) - target
    return (softplus(z) if link == "softplus" else z).masked_fill(empty, 0.0)
