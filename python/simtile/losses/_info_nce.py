"""InfoNCE and its SimCLR, supervised and weighted relatives as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simtile import functional
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from simtile._losses.filtered import Block, MarginStrategy
    from simtile._pairs import CSR
    from simtile.functional import PlanName, ProcessGroup, Reduction


class InfoNCELoss(ContrastiveLoss):
    """InfoNCE, also known as NT-Xent, multiple negatives ranking or, with ``symmetric``, CLIP's loss.

    Parameters
    ----------
    temperature : float      0.07 as in CLIP; where it starts if it is learnt
    learn_temperature : bool      the parameter ``log_scale`` = log(1 / temperature) is trained, a scalar as in CLIP
    max_scale : float      1 / temperature is cut off here, 100 as in CLIP; only when learnt
    symmetric, normalize, label_smoothing, reduction, plan, process_group      see :func:`simtile.functional.info_nce`

    Raises
    ------
    ValueError      temperature or max_scale not above 0

    Examples
    --------
    >>> import torch
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
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            temperature, learn_temperature, max_scale, symmetric=symmetric, normalize=normalize,
            label_smoothing=label_smoothing, reduction=reduction, plan=plan, process_group=process_group,
        )  # fmt: skip

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
        return functional.info_nce(
            query, key, temperature=self.current_temperature(), query_ids=query_ids, key_ids=key_ids, targets=targets,
            negatives=negatives, row_negatives=row_negatives, weight=weight, **self.options,
        )  # fmt: skip


class NTXentLoss(ContrastiveLoss):
    """The loss of SimCLR, arXiv:2002.05709.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    normalize, reduction, plan, process_group      see :func:`simtile.functional.nt_xent`

    Examples
    --------
    >>> import torch
    >>> NTXentLoss(0.5)(torch.eye(3), torch.eye(3))
    tensor(0.4327)
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

    def forward(
        self, view_a: Tensor, view_b: Tensor, *, labels: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of two views (B, D) of each item: :func:`simtile.functional.nt_xent`."""
        return functional.nt_xent(
            view_a, view_b, temperature=self.current_temperature(), labels=labels, weight=weight, **self.options
        )


class SupConLoss(ContrastiveLoss):
    """The supervised contrastive loss, arXiv:2004.11362.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    form, margin, margin_kind, normalize, reduction, plan, process_group      see :func:`simtile.functional.sup_con`

    Examples
    --------
    >>> import torch
    >>> SupConLoss(1.0)(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
    tensor(0.5514)
    """

    def __init__(
        self, temperature: float = 0.1, *, learn_temperature: bool = False, max_scale: float = 100.0,
        form: str = "out", margin: float = 0.0, margin_kind: str = "angular", normalize: bool = True,
        reduction: Reduction = "mean", plan: PlanName = "auto", process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, form=form, margin=margin, margin_kind=margin_kind,
            normalize=normalize, reduction=reduction, plan=plan, process_group=process_group,
        )  # fmt: skip

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        *,
        keys: Tensor | None = None,
        key_labels: Tensor | None = None,
        positives: CSR | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of anchors (M, D): :func:`simtile.functional.sup_con`."""
        return functional.sup_con(
            embeddings, labels, keys=keys, key_labels=key_labels, positives=positives,
            temperature=self.current_temperature(), weight=weight, **self.options,
        )  # fmt: skip


class CWCLLoss(ContrastiveLoss):
    """The continuously weighted contrastive loss, arXiv:2309.14580.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    symmetric, normalize, reduction, plan, process_group      see :func:`simtile.functional.cwcl`
    """

    def __init__(
        self, temperature: float = 0.07, *, learn_temperature: bool = False, max_scale: float = 100.0,
        symmetric: bool = True, normalize: bool = True, reduction: Reduction = "mean", plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, symmetric=symmetric, normalize=normalize, reduction=reduction,
            plan=plan, process_group=process_group,
        )  # fmt: skip

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        features: Tensor,
        *,
        key_features: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of queries (M, D) and keys (N, D) under frozen features: :func:`simtile.functional.cwcl`."""
        return functional.cwcl(
            query, key, features, key_features=key_features, temperature=self.current_temperature(), weight=weight,
            **self.options,
        )  # fmt: skip


class FilteredInfoNCELoss(ContrastiveLoss):
    """InfoNCE without false negatives: GISTEmbed (arXiv:2402.16829) with a guide, Qwen3-Embedding without.

    Parameters
    ----------
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    margin, margin_strategy, blocks, normalize, reduction, plan, process_group
        see :func:`simtile.functional.filtered_info_nce`
    """

    def __init__(
        self, temperature: float = 0.05, *, learn_temperature: bool = False, max_scale: float = 100.0,
        margin: float | None = 0.0, margin_strategy: MarginStrategy = "absolute",
        blocks: Sequence[Block] = ("query_key",), normalize: bool = True, reduction: Reduction = "mean",
        plan: PlanName = "auto",
        process_group: ProcessGroup = None,
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, margin=margin, margin_strategy=margin_strategy,
            blocks=tuple(blocks), normalize=normalize, reduction=reduction, plan=plan, process_group=process_group,
        )  # fmt: skip

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        guide: tuple[Tensor, Tensor] | None = None,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.filtered_info_nce`."""
        return functional.filtered_info_nce(
            query, key, guide=guide, temperature=self.current_temperature(), query_ids=query_ids, key_ids=key_ids,
            weight=weight, **self.options,
        )  # fmt: skip
