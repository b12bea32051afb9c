"""Losses over mixtures as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simtile import mixing
from simtile.losses._module import ContrastiveLoss, Loss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from simtile.functional import Reduction


class SupReMixLoss(ContrastiveLoss):
    """Supervised contrastive regression with mixtures, arXiv:2309.16633.

    Parameters
    ----------
    window : float      how far apart labels of an anchor and the parts of its mixed positives may be
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    beta, normalize, reduction      see :func:`simtile.mixing.supremix`
    """

    def __init__(
        self, window: float, temperature: float = 0.07, *, learn_temperature: bool = False, max_scale: float = 100.0,
        beta: tuple[float, float] = (2.0, 8.0), normalize: bool = True, reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, window=window, beta=beta, normalize=normalize,
            reduction=reduction,
        )  # fmt: skip

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, share: Tensor | None = None, weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of embeddings (N, D) with real labels (N,): :func:`simtile.mixing.supremix`."""
        return mixing.supremix(
            embeddings, labels, temperature=self.current_temperature(), share=share, weight=weight,
            generator=generator, **self.options,
        )  # fmt: skip


class MetrixLoss(Loss):
    """The contrastive loss with mixtures of positives and negatives, arXiv:2106.04990.

    Parameters
    ----------
    margin, mixed_weight, alpha      see :func:`simtile.mixing.metrix`
    """

    def __init__(self, *, margin: float = 0.5, mixed_weight: float = 0.4, alpha: float = 2.0) -> None:
        super().__init__(margin=margin, mixed_weight=mixed_weight, alpha=alpha)

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, share: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of embeddings (N, D) with labels (N,): :func:`simtile.mixing.metrix`."""
        return mixing.metrix(embeddings, labels, share=share, generator=generator, **self.options)
