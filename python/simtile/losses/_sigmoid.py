"""The sigmoid loss as a module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from simtile import functional

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


class SigLIPLoss(nn.Module):
    """The sigmoid loss of SigLIP, arXiv:2303.15343.

    Parameters
    ----------
    scale, bias : float      10 and -10 as in the paper; where they start if they are learnt
    learn_scale : bool      the parameters ``log_scale`` = log(scale) and ``bias`` are trained, scalars as in the paper
    normalize, reduction, plan, process_group      see :func:`simtile.functional.sigmoid_loss`

    Raises
    ------
    ValueError      scale not above 0

    Examples
    --------
    >>> SigLIPLoss()(torch.eye(2), torch.eye(2))
    tensor(0.6932)
    """

    def __init__(
        self,
        scale: float = 10.0,
        bias: float = -10.0,
        *,
        learn_scale: bool = False,
        normalize: bool = True,
        reduction: Reduction = "mean",
        plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale: a finite number above 0, got {scale}")
        self.scale, self.initial_bias = float(scale), float(bias)
        self.normalize, self.reduction, self.plan = normalize, reduction, plan
        self.process_group = process_group
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn_scale else None
        self.bias = nn.Parameter(torch.tensor(float(bias))) if learn_scale else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.sigmoid_loss`."""
        return functional.sigmoid_loss(
            query, key, scale=self.scale if self.log_scale is None else self.log_scale.exp(),
            bias=self.initial_bias if self.bias is None else self.bias, normalize=self.normalize, query_ids=query_ids,
            key_ids=key_ids, weight=weight, reduction=self.reduction, plan=self.plan, process_group=self.process_group,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        learnt = ", learn_scale=True" if self.log_scale is not None else ""
        return (
            f"scale={self.scale:g}, bias={self.initial_bias:g}{learnt}, normalize={self.normalize}, "
            f"reduction={self.reduction!r}, plan={self.plan!r}"
        )
