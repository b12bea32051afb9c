"""Losses whose temperatures, margins or weights adapt to the pair, as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from simtile import adaptive
from simtile._normalize import unit
from simtile.losses._module import ContrastiveLoss, Loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from simtile.functional import PlanName, Reduction


class AMCLLoss(Loss):
    """Adaptive multi-head contrastive learning, arXiv:2310.05615: several projection heads, one learnt φ.

    Parameters
    ----------
    width : int      D of every head
    hidden : int      width of φ's hidden layer, default D; φ is Linear, ReLU, Linear, as in the authors' code
    temperatures, top_k, beta, reduction      see :func:`simtile.adaptive.amcl`

    Notes
    -----
    The loss of all heads is summed. φ has parameters: give them to the optimiser.
    """

    def __init__(
        self, width: int, *, hidden: int | None = None, temperatures: tuple[float, float] = (1e-5, 2.0),
        top_k: int = 100, beta: float = 1e-4, reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__(temperatures=temperatures, top_k=top_k, beta=beta, reduction=reduction)
        hidden = width if hidden is None else hidden
        self.phi = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, view_a: Tensor, view_b: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of two views, (B, heads, D) or of one head (B, D): :func:`simtile.adaptive.amcl` of each, summed."""
        if view_a.ndim == 2:
            view_a, view_b = view_a[:, None], view_b[:, None]
        total: Tensor | None = None
        for a, b in zip(view_a.unbind(1), view_b.unbind(1), strict=True):
            a, b = unit(a), unit(b)
            one = adaptive.amcl(a, b, self.phi(a), self.phi(b), normalize=False, weight=weight, **self.options)
            total = one if total is None else total + one
        if total is None:
            raise ValueError(f"view_a: at least one head, got shape {tuple(view_a.shape)}")
        return total


class MaxViolationLoss(Loss):
    """The hinge of the hardest negative, VSE++, arXiv:1707.05612.

    Parameters
    ----------
    margin, normalize, reduction      see :func:`simtile.adaptive.max_violation`
    """

    def __init__(self, margin: float = 0.2, *, normalize: bool = True, reduction: Reduction = "mean") -> None:
        super().__init__(margin=margin, normalize=normalize, reduction=reduction)

    def forward(self, query: Tensor, key: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.adaptive.max_violation`."""
        return adaptive.max_violation(query, key, weight=weight, **self.options)


class DeepBoostingLoss(Loss):
    """Margins over a frozen anchor branch, arXiv:2404.18114.

    Parameters
    ----------
    kind, margin, gamma, normalize, reduction      see :func:`simtile.adaptive.deep_boosting`
    """

    def __init__(
        self, kind: Literal["absolute", "relative"] = "absolute", *, margin: float = 0.2, gamma: float = 0.5,
        normalize: bool = True, reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__(kind=kind, margin=margin, gamma=gamma, normalize=normalize, reduction=reduction)

    def forward(
        self, query: Tensor, key: Tensor, anchor_query: Tensor, anchor_key: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of a target branch over its anchor branch: :func:`simtile.adaptive.deep_boosting`."""
        return adaptive.deep_boosting(query, key, anchor_query, anchor_key, weight=weight, **self.options)


class ProgressiveInfoNCELoss(ContrastiveLoss):
    """InfoNCE with progressive sample weights, as in PEG, arXiv:2311.11691.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    schedule, reduction, plan      see :func:`simtile.adaptive.progressive_info_nce`
    """

    def __init__(
        self, temperature: float = 0.01, *, learn_temperature: bool = False, max_scale: float = 100.0,
        schedule: Callable[[Tensor, float], Tensor] = adaptive.easy_then_hard, reduction: Reduction = "mean",
        plan: PlanName = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, schedule=schedule, reduction=reduction, plan=plan
        )  # fmt: skip

    def forward(
        self, query: Tensor, key: Tensor, *, progress: float, row_negatives: Tensor | None = None,
        query_ids: Tensor | None = None, key_ids: Tensor | None = None, weight: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of queries (M, D) and keys (N, D) at a share ``progress`` of the training."""
        return adaptive.progressive_info_nce(
            query, key, progress=progress, row_negatives=row_negatives, temperature=self.current_temperature(),
            query_ids=query_ids, key_ids=key_ids, weight=weight, **self.options,
        )  # fmt: skip
