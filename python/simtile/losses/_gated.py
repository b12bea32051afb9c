"""Hydra's gate and loss as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from simtile import functional
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction


class LabelGate(nn.Module):
    """A gate for each pair of classes, in (0, 1): a small network over the mean of two label embeddings.

    Parameters
    ----------
    classes : int
    width : int      coordinates to open and shut
    label_width, hidden : int      512 and 1,024 as in the authors' code
    """

    def __init__(self, classes: int, width: int, *, label_width: int = 512, hidden: int = 1024) -> None:
        super().__init__()
        self.labels = nn.Embedding(classes, label_width)
        self.network = nn.Sequential(
            nn.ReLU(), nn.BatchNorm1d(label_width), nn.Linear(label_width, hidden),
            nn.ReLU(), nn.BatchNorm1d(hidden), nn.Linear(hidden, width), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, labels: Tensor, partner_labels: Tensor) -> Tensor:
        """(B, width) gates of pairs of classes (B,); the order of the two does not matter."""
        gates: Tensor = self.network((self.labels(labels) + self.labels(partner_labels)) / 2)
        return gates


class HydraLoss(ContrastiveLoss):
    """Contrastive learning from pairs of any two classes, each in its own subspace: Hydra, arXiv:2410.18200.

    Parameters
    ----------
    classes, width : int      what its :class:`LabelGate` takes
    entropy_weight : float      of :func:`simtile.functional.gate_entropy`, which drives gates to 0 or 1
    label_width, hidden : int      see :class:`LabelGate`
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`; learnt in the authors' code
    normalize, reduction, plan      see :func:`simtile.functional.gated_info_nce`
    """

    def __init__(
        self, classes: int, width: int, *, entropy_weight: float = 0.0, label_width: int = 512, hidden: int = 1024,
        temperature: float = 0.1, learn_temperature: bool = False, max_scale: float = 100.0, normalize: bool = True,
        reduction: Reduction = "mean", plan: PlanName = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, normalize=normalize, reduction=reduction, plan=plan
        )  # fmt: skip
        self.gate = LabelGate(classes, width, label_width=label_width, hidden=hidden)
        self.entropy_weight = entropy_weight

    def forward(
        self, query: Tensor, key: Tensor, labels: Tensor, *, partner_labels: Tensor | None = None,
        key_labels: Tensor | None = None, weight: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of two views (B, width) of items of ``labels``.

        ``partner_labels`` defaults to the batch's labels in a random order, ``key_labels`` to ``labels``.
        """
        if partner_labels is None:
            partner_labels = labels[torch.randperm(labels.shape[0], device=labels.device)]
        gate = self.gate(labels, partner_labels)
        loss = functional.gated_info_nce(
            query, key, gate.to(query.dtype), labels, partner_labels, labels if key_labels is None else key_labels,
            temperature=self.current_temperature(), weight=weight, **self.options,
        )  # fmt: skip
        return loss + self.entropy_weight * functional.gate_entropy(gate) if self.entropy_weight else loss
