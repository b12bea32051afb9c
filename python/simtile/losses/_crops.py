"""clip-rocket's losses as modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from simtile import self_supervised
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


class MultiCropInfoNCELoss(ContrastiveLoss):
    """CLIP's loss of whole items and of all pairs of crops, arXiv:2305.08675.

    Parameters
    ----------
    temperature, crop_temperature : float      where they start if they are learnt
    learn_temperature : bool      the parameters ``log_scale`` and ``log_crop_scale`` are trained
    max_scale : float      1 / temperature, of both, is cut off here; only when learnt
    label_smoothing, normalize, reduction, plan, process_group
        see :func:`simtile.self_supervised.multi_crop_info_nce`
    """

    def __init__(
        self, temperature: float = 0.07, *, crop_temperature: float = 0.1, learn_temperature: bool = False,
        max_scale: float = 100.0, label_smoothing: float = 0.1, normalize: bool = True, reduction: Reduction = "mean",
        plan: PlanName = "auto", process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, label_smoothing=label_smoothing, normalize=normalize,
            reduction=reduction, plan=plan, process_group=process_group,
        )  # fmt: skip
        if not crop_temperature > 0:
            raise ValueError(f"crop_temperature: above 0, got {crop_temperature}")
        self.crop_temperature = float(crop_temperature)
        start = torch.tensor(-math.log(crop_temperature))
        self.log_crop_scale = nn.Parameter(start) if learn_temperature else None

    def forward(
        self, query: Tensor, key: Tensor, query_crops: Sequence[Tensor], key_crops: Sequence[Tensor], *,
        weight: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of items (B, D) and their crops: :func:`simtile.self_supervised.multi_crop_info_nce`."""
        crop: float | Tensor = self.crop_temperature
        if self.log_crop_scale is not None:
            crop = self.log_crop_scale.clamp(max=math.log(self.max_scale)).neg().exp()
        return self_supervised.multi_crop_info_nce(
            query, key, query_crops, key_crops, temperature=self.current_temperature(), crop_temperature=crop,
            weight=weight, **self.options,
        )  # fmt: skip


class SwALIPLoss(ContrastiveLoss):
    """Balanced assignments between two crops of each modality, arXiv:2305.08675.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    epsilon, iterations, normalize, reduction, plan      see :func:`simtile.self_supervised.swalip`
    """

    def __init__(
        self, temperature: float = 0.1, *, learn_temperature: bool = False, max_scale: float = 100.0,
        epsilon: float = 0.05, iterations: int = 3, normalize: bool = True, reduction: Reduction = "mean",
        plan: PlanName = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, epsilon=epsilon, iterations=iterations, normalize=normalize,
            reduction=reduction, plan=plan,
        )  # fmt: skip

    def forward(
        self, query_crops: Sequence[Tensor], key_crops: Sequence[Tensor], *, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of two crops (B, D) of each side: :func:`simtile.self_supervised.swalip`."""
        return self_supervised.swalip(
            query_crops, key_crops, temperature=self.current_temperature(), weight=weight, **self.options
        )


class SiameseLoss(nn.Module):
    """SimSiam's and BYOL's loss, arXiv:2011.10566, arXiv:2006.07733.

    Parameters
    ----------
    reduction      see :func:`simtile.self_supervised.siamese_loss`
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, prediction: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of predictions (B, D) of targets (B, D), which are constants."""
        return self_supervised.siamese_loss(prediction, target, weight=weight, reduction=self.reduction)


class BarlowTwinsLoss(nn.Module):
    """Barlow Twins, arXiv:2103.03230.

    Parameters
    ----------
    redundancy, standardize, scale      see :func:`simtile.self_supervised.barlow_twins`
    """

    def __init__(self, redundancy: float = 5e-3, *, standardize: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.redundancy, self.standardize, self.scale = redundancy, standardize, scale

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """The loss of two views (B, D): :func:`simtile.self_supervised.barlow_twins`."""
        return self_supervised.barlow_twins(
            view_a, view_b, redundancy=self.redundancy, standardize=self.standardize, scale=self.scale
        )
