"""List-wise losses as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from simtile import listwise
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from torch import Tensor

    from simtile.functional import PlanName, ProcessGroup, Reduction


class StableDistillationLoss(ContrastiveLoss):
    """LLM-Embedder's distillation of a language model's rewards, arXiv:2310.07554.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    reward_temperature, contrastive_weight, sort, normalize, reduction, plan, process_group      see
        :func:`simtile.listwise.stable_distillation`
    """

    def __init__(
        self, temperature: float = 0.01, *, learn_temperature: bool = False, max_scale: float = 100.0,
        reward_temperature: float = 1.0, contrastive_weight: float = 0.0, sort: bool = True, normalize: bool = True,
        reduction: Reduction = "mean", plan: PlanName = "auto", process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, reward_temperature=reward_temperature,
            contrastive_weight=contrastive_weight, sort=sort, normalize=normalize, reduction=reduction, plan=plan,
            process_group=process_group,
        )  # fmt: skip

    def forward(self, query: Tensor, candidates: Tensor, reward: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of queries (M, D) and candidates (M, K, D): :func:`simtile.listwise.stable_distillation`."""
        return listwise.stable_distillation(
            query, candidates, reward, temperature=self.current_temperature(), weight=weight, **self.options
        )


class STSLoss(nn.Module):
    """CoDiEmb's loss of graded sentence pairs, arXiv:2508.11442: Pearson, PRO and rank-KL.

    Parameters
    ----------
    pearson, pro, rank_kl, temperature      see :func:`simtile.listwise.sts_loss`
    """

    def __init__(
        self, *, pearson: float = 2.0, pro: float = 0.5, rank_kl: float = 5.0, temperature: float = 0.05
    ) -> None:
        super().__init__()
        self.options = {"pearson": pearson, "pro": pro, "rank_kl": rank_kl, "temperature": temperature}

    def forward(self, query: Tensor, key: Tensor, target: Tensor) -> Tensor:
        """The loss of pairs (N, D) graded by targets (N,): :func:`simtile.listwise.sts_loss`."""
        return listwise.sts_loss(query, key, target, **self.options)

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        return ", ".join(f"{name}={value:g}" for name, value in self.options.items())


class WassersteinLoss(nn.Module):
    """SyCL's list-wise Wasserstein distance, arXiv:2503.23239.

    Parameters
    ----------
    temperature : float      of the scores
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, scores: Tensor, relevance: Tensor) -> Tensor:
        """The loss of scores and graded labels (M, N): :func:`simtile.listwise.wasserstein_loss`."""
        return listwise.wasserstein_loss(scores, relevance, temperature=self.temperature)

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        return f"temperature={self.temperature:g}"
