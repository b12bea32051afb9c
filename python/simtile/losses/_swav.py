"""SwAV with its prototypes and queues as a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from simtile import self_supervised
from simtile.losses._module import ContrastiveLoss
from simtile.losses._queue import MomentumQueue

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction


class SwAVLoss(ContrastiveLoss):
    """SwAV, arXiv:2006.09882, with its prototypes, which are learnt, and its queues.

    Parameters
    ----------
    width : int      columns of the features
    prototypes : int      3,000 as in the paper, for ImageNet
    queue : int      rows of each assigning view's queue, 0 for none; it joins the assignments once it is full. Rows
        enter it in training mode only
    temperature, epsilon, iterations, assigning, reduction, plan      see :func:`simtile.self_supervised.swav`

    Notes
    -----
    The authors leave the prototypes as they are for the first 313 steps: ``loss.prototypes.requires_grad_(False)``.

    Examples
    --------
    >>> loss = SwAVLoss(4, prototypes=8)
    >>> loss([torch.randn(16, 4), torch.randn(16, 4)]).shape
    torch.Size([])
    """

    def __init__(
        self, width: int, prototypes: int = 3000, *, queue: int = 0, temperature: float = 0.1, epsilon: float = 0.05,
        iterations: int = 3, assigning: int = 2, reduction: Reduction = "mean", plan: PlanName = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, False, 1.0 / temperature, epsilon=epsilon, iterations=iterations, assigning=assigning,
            reduction=reduction, plan=plan,
        )  # fmt: skip
        self.prototypes = nn.Parameter(nn.functional.normalize(torch.randn(prototypes, width), dim=1))
        self.queues = nn.ModuleList(MomentumQueue(queue, width) for _ in range(assigning if queue else 0))

    def forward(self, views: list[Tensor] | tuple[Tensor, ...], *, weight: Tensor | None = None) -> Tensor:
        """The loss of views (B, width), the assigning ones first: :func:`simtile.self_supervised.swav`."""
        full = [queue.keys() for queue in self.queues if isinstance(queue, MomentumQueue) and queue.full]
        loss = self_supervised.swav(
            views, self.prototypes, queues=full if full else None, temperature=self.temperature, weight=weight,
            **self.options,
        )  # fmt: skip
        if self.training:
            for queue, view in zip(self.queues, views, strict=False):
                assert isinstance(queue, MomentumQueue)
                queue.push(view)
        return loss
