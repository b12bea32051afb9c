"""The losses as ``torch.nn`` modules, named after their papers.

Each is a few lines over :mod:`simtile.functional`, which documents arguments, memory and errors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile import functional

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction

__all__ = ["InfoNCELoss", "SigLIPLoss"]


class InfoNCELoss(nn.Module):
    """InfoNCE, also known as NT-Xent, multiple negatives ranking or, with ``symmetric``, CLIP's loss.

    Parameters
    ----------
    temperature : float      0.07 as in CLIP; where it starts if it is learnt
    learn_temperature : bool      the parameter ``log_scale`` = log(1 / temperature) is trained, a scalar as in CLIP
    max_scale : float      1 / temperature is cut off here, 100 as in CLIP; only when learnt
    symmetric, normalize, label_smoothing, reduction, plan      see :func:`simtile.functional.info_nce`

    Raises
    ------
    ValueError      temperature or max_scale not above 0

    Examples
    --------
    >>> loss = InfoNCELoss(temperature=0.5)
    >>> loss(torch.eye(3), torch.eye(3))
    tensor(0.2395)
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learn_temperature: bool = False,
        max_scale: float = 100.0,
        symmetric: bool = False,
        normalize: bool = True,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        plan: PlanName = "auto",
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("max_scale", max_scale)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: a finite number above 0, got {value}")
        self.temperature, self.max_scale = float(temperature), float(max_scale)
        self.symmetric, self.normalize = symmetric, normalize
        self.label_smoothing, self.reduction, self.plan = label_smoothing, reduction, plan
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        targets: Tensor | None = None,
        negatives: Tensor | None = None,
        row_negatives: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.info_nce`."""
        temperature: float | Tensor = self.temperature
        if self.log_scale is not None:
            temperature = self.log_scale.clamp(max=math.log(self.max_scale)).neg().exp()
        return functional.info_nce(
            query, key, temperature=temperature, symmetric=self.symmetric, normalize=self.normalize,
            query_ids=query_ids, key_ids=key_ids, targets=targets, negatives=negatives,
            row_negatives=row_negatives, weight=weight, label_smoothing=self.label_smoothing,
            reduction=self.reduction, plan=self.plan,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        learnt = ", learn_temperature=True" if self.log_scale is not None else ""
        return (
            f"temperature={self.temperature:g}{learnt}, symmetric={self.symmetric}, normalize={self.normalize}, "
            f"label_smoothing={self.label_smoothing:g}, reduction={self.reduction!r}, plan={self.plan!r}"
        )


class SigLIPLoss(nn.Module):
    """The sigmoid loss of SigLIP, arXiv:2303.15343.

    Parameters
    ----------
    scale, bias : float      10 and -10 as in the paper; where they start if they are learnt
    learn_scale : bool      the parameters ``log_scale`` = log(scale) and ``bias`` are trained, scalars as in the paper
    normalize, reduction, plan      see :func:`simtile.functional.sigmoid_loss`

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
    ) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale: a finite number above 0, got {scale}")
        self.scale, self.initial_bias = float(scale), float(bias)
        self.normalize, self.reduction, self.plan = normalize, reduction, plan
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn_scale else None
        self.bias = nn.Parameter(torch.tensor(float(bias))) if learn_scale else None

    def forward(
        self, query: Tensor, key: Tensor, *, query_ids: Tensor | None = None, key_ids: Tensor | None = None
    ) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.sigmoid_loss`."""
        return functional.sigmoid_loss(
            query, key, scale=self.scale if self.log_scale is None else self.log_scale.exp(),
            bias=self.initial_bias if self.bias is None else self.bias, normalize=self.normalize, query_ids=query_ids,
            key_ids=key_ids, reduction=self.reduction, plan=self.plan,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        learnt = ", learn_scale=True" if self.log_scale is not None else ""
        return (
            f"scale={self.scale:g}, bias={self.initial_bias:g}{learnt}, normalize={self.normalize}, "
            f"reduction={self.reduction!r}, plan={self.plan!r}"
        )
