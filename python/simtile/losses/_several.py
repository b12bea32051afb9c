"""Modules of losses over several positives, learnt augmentations, and scores that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from simtile import functional, late_interaction
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


class MultiPositiveInfoNCELoss(ContrastiveLoss):
    """CoDiEmb's retrieval loss, arXiv:2508.11442; symmetric, LaCLIP's of several texts, arXiv:2305.20088.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    symmetric, normalize, reduction, plan, process_group      see :func:`simtile.functional.multi_positive_info_nce`
    """

    def __init__(
        self, temperature: float = 0.05, *, learn_temperature: bool = False, max_scale: float = 100.0,
        symmetric: bool = False, normalize: bool = True, reduction: Reduction = "mean", plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, symmetric=symmetric, normalize=normalize, reduction=reduction,
            plan=plan, process_group=process_group,
        )  # fmt: skip

    def forward(
        self, query: Tensor, positives: Tensor, negatives: Tensor | None = None, *, ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of queries (M, D) and positives (M, P, D): :func:`simtile.functional.multi_positive_info_nce`."""
        return functional.multi_positive_info_nce(
            query, positives, negatives, ids=ids, temperature=self.current_temperature(), weight=weight, **self.options
        )


class MetaContrastLoss(ContrastiveLoss):
    """MCLRec's contrast of two views and a learnt augmentation of each, arXiv:2304.07763.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    regularizer, normalize, reduction, plan      see :func:`simtile.functional.meta_contrast`
    """

    def __init__(
        self, temperature: float = 1.0, *, learn_temperature: bool = False, max_scale: float = 100.0,
        regularizer: float = 0.1, normalize: bool = False, reduction: Reduction = "mean", plan: PlanName = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, regularizer=regularizer, normalize=normalize,
            reduction=reduction, plan=plan,
        )  # fmt: skip

    def forward(self, view_a: Tensor, view_b: Tensor, meta_a: Tensor, meta_b: Tensor) -> Tensor:
        """The loss of views and their augmentations (B, D): :func:`simtile.functional.meta_contrast`."""
        return functional.meta_contrast(
            view_a, view_b, meta_a, meta_b, temperature=self.current_temperature(), **self.options
        )


class MaxSimLoss(ContrastiveLoss):
    """InfoNCE of late-interaction scores: ColBERT, arXiv:2004.12832.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    aggregate, symmetric, reduction      see :func:`simtile.late_interaction.maxsim_info_nce`
    """

    def __init__(
        self, temperature: float = 1.0, *, learn_temperature: bool = False, max_scale: float = 100.0,
        aggregate: Literal["sum", "mean"] = "sum", symmetric: bool = False, reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, aggregate=aggregate, symmetric=symmetric, reduction=reduction
        )

    def forward(
        self, query: Tensor, document: Tensor, *, query_indptr: Tensor | None = None,
        document_indptr: Tensor | None = None, targets: Tensor | None = None, weight: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of sets of tokens: :func:`simtile.late_interaction.maxsim_info_nce`."""
        return late_interaction.maxsim_info_nce(
            query, document, query_indptr=query_indptr, document_indptr=document_indptr, targets=targets,
            temperature=self.current_temperature(), weight=weight, **self.options,
        )  # fmt: skip


class SoftREPALoss(nn.Module):
    """SoftREPA's loss of denoising errors with its two learnt scalars, arXiv:2503.08250.

    Parameters
    ----------
    temperature, scale : float      where they start
    learn : bool      False: both stay
    error_weight, reduction      see :func:`simtile.functional.soft_repa`
    """

    def __init__(
        self, temperature: float = 0.07, scale: float = 4.0, *, learn: bool = True, error_weight: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: above 0, got {temperature}")
        self.temperature, self.scale = (
            nn.Parameter(torch.tensor(float(value))) if learn else float(value) for value in (temperature, scale)
        )
        self.error_weight, self.reduction = error_weight, reduction

    def forward(self, errors: Tensor, *, targets: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """The loss of errors (M, N) of image i under prompt j: :func:`simtile.functional.soft_repa`."""
        return functional.soft_repa(
            errors, targets=targets, temperature=self.temperature, scale=self.scale, error_weight=self.error_weight,
            weight=weight, reduction=self.reduction,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        return f"temperature={float(self.temperature):g}, scale={float(self.scale):g}, reduction={self.reduction!r}"
