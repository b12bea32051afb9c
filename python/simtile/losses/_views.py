"""Losses over two views of each item as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simtile import functional
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from torch import Tensor

    from simtile.functional import PlanName, ProcessGroup, Reduction


class DCLLoss(ContrastiveLoss):
    """Decoupled contrastive learning, arXiv:2110.06848; with ``sigma`` its weighted form DCLW.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    sigma, normalize, reduction, plan, process_group      see :func:`simtile.functional.dcl`
    """

    def __init__(
        self, temperature: float = 0.1, *, learn_temperature: bool = False, max_scale: float = 100.0,
        sigma: float | None = None, normalize: bool = True, reduction: Reduction = "mean", plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, sigma=sigma, normalize=normalize, reduction=reduction, plan=plan,
            process_group=process_group,
        )  # fmt: skip

    def forward(self, view_a: Tensor, view_b: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of two views (B, D) of each item: :func:`simtile.functional.dcl`."""
        return functional.dcl(
            view_a, view_b, temperature=self.current_temperature(), weight=weight, **self.options
        )  # fmt: skip


class HCLLoss(ContrastiveLoss):
    """Hard, debiased negatives, arXiv:2010.04592; with ``beta=0`` the debiased contrastive loss, arXiv:2007.00224.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    tau_plus, beta, normalize, reduction, plan, process_group      see :func:`simtile.functional.hcl`
    """

    def __init__(
        self, temperature: float = 0.5, *, learn_temperature: bool = False, max_scale: float = 100.0,
        tau_plus: float = 0.1, beta: float = 1.0, normalize: bool = True, reduction: Reduction = "mean",
        plan: PlanName = "auto", process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, tau_plus=tau_plus, beta=beta, normalize=normalize,
            reduction=reduction, plan=plan, process_group=process_group,
        )  # fmt: skip

    def forward(self, view_a: Tensor, view_b: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of two views (B, D) of each item: :func:`simtile.functional.hcl`."""
        return functional.hcl(
            view_a, view_b, temperature=self.current_temperature(), weight=weight, **self.options
        )  # fmt: skip
