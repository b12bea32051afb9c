"""InfoNCE's relatives as modules: margins, focal weights, other denominators, teachers, the modality gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from simtile import functional
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from torch import Tensor

    from simtile.functional import PlanName, ProcessGroup, Reduction


class MarginInfoNCELoss(ContrastiveLoss):
    """InfoNCE with a margin: CosFace / AM-softmax (arXiv:1801.09414) or ArcFace (arXiv:1801.07698) over the batch.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    margin, kind, symmetric, reduction, plan, process_group      see :func:`simtile.functional.margin_info_nce`
    """

    def __init__(
        self, temperature: float = 0.05, *, learn_temperature: bool = False, max_scale: float = 100.0,
        margin: float = 0.3, kind: Literal["additive", "angular"] = "additive", symmetric: bool = True,
        reduction: Reduction = "mean", plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, margin=margin, kind=kind, symmetric=symmetric,
            reduction=reduction, plan=plan, process_group=process_group,
        )  # fmt: skip

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.margin_info_nce`."""
        return functional.margin_info_nce(
            query, key, temperature=self.current_temperature(), query_ids=query_ids, key_ids=key_ids, weight=weight,
            **self.options,
        )  # fmt: skip


class FocalInfoNCELoss(ContrastiveLoss):
    """KaLM-Embedding-V2's focal InfoNCE with mixed hard negatives, arXiv:2506.20923.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    gamma, reduction, plan, process_group      see :func:`simtile.functional.focal_info_nce`
    """

    def __init__(
        self, temperature: float = 0.01, *, learn_temperature: bool = False, max_scale: float = 100.0,
        gamma: float = 0.5, reduction: Reduction = "mean", plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature,
            learn_temperature,
            max_scale,
            gamma=gamma,
            reduction=reduction,
            plan=plan,
            process_group=process_group,
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        row_negatives: Tensor | None = None,
        mixing: Tensor | None = None,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.focal_info_nce`."""
        return functional.focal_info_nce(
            query, key, row_negatives=row_negatives, mixing=mixing, temperature=self.current_temperature(),
            query_ids=query_ids, key_ids=key_ids, weight=weight, **self.options,
        )  # fmt: skip


class CMIMLoss(ContrastiveLoss):
    """The contrastive term of cMIM, arXiv:2509.21511.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    normalize, reduction, plan, process_group      see :func:`simtile.functional.cmim`
    """

    def __init__(
        self, temperature: float = 0.1, *, learn_temperature: bool = False, max_scale: float = 100.0,
        normalize: bool = True, reduction: Reduction = "mean", plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, normalize=normalize, reduction=reduction, plan=plan,
            process_group=process_group,
        )  # fmt: skip

    def forward(self, query: Tensor, key: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.cmim`."""
        return functional.cmim(
            query, key, temperature=self.current_temperature(), weight=weight, **self.options
        )  # fmt: skip


class ContrastiveGapLoss(ContrastiveLoss):
    """CLIP's loss with alignment and uniformity, arXiv:2405.18570.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    align, uniform, cross_uniform, t, reduction, plan      see :func:`simtile.functional.contrastive_gap_loss`
    """

    def __init__(
        self, temperature: float = 0.07, *, learn_temperature: bool = False, max_scale: float = 100.0,
        align: float = 1.0, uniform: float = 1.0, cross_uniform: float = 1.0, t: float = 2.0,
        reduction: Reduction = "mean", plan: PlanName = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, align=align, uniform=uniform, cross_uniform=cross_uniform, t=t,
            reduction=reduction, plan=plan,
        )  # fmt: skip

    def forward(self, query: Tensor, key: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of pairs (B, D): :func:`simtile.functional.contrastive_gap_loss`."""
        return functional.contrastive_gap_loss(
            query, key, temperature=self.current_temperature(), weight=weight, **self.options
        )


class DistillationLoss(ContrastiveLoss):
    """A teacher's softmax over the batch as targets: CLIP-KD, arXiv:2307.12732.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    teacher_temperature : float      default ``temperature``, at its start
    symmetric, normalize, reduction, plan      see :func:`simtile.functional.distillation_loss`
    """

    def __init__(
        self, temperature: float = 0.07, *, learn_temperature: bool = False, max_scale: float = 100.0,
        teacher_temperature: float | None = None, symmetric: bool = True, normalize: bool = True,
        reduction: Reduction = "mean", plan: PlanName = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale,
            teacher_temperature=temperature if teacher_temperature is None else teacher_temperature,
            symmetric=symmetric, normalize=normalize, reduction=reduction, plan=plan,
        )  # fmt: skip

    def forward(
        self, query: Tensor, key: Tensor, teacher_query: Tensor, teacher_key: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of a student under a teacher: :func:`simtile.functional.distillation_loss`."""
        return functional.distillation_loss(
            query, key, teacher_query, teacher_key, temperature=self.current_temperature(), weight=weight,
            **self.options,
        )  # fmt: skip
