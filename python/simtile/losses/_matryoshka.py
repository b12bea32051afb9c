"""InfoNCE of several prefixes, and of several layers, as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simtile import functional
from simtile.losses._module import ContrastiveLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from simtile.functional import ProcessGroup, Reduction


class MatryoshkaInfoNCELoss(ContrastiveLoss):
    """InfoNCE of several prefixes of the coordinates, from one sweep over them, arXiv:2205.13147.

    Parameters
    ----------
    dims : sequence of int      the prefixes' lengths
    weights : sequence of float      one a prefix, default 1 each
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    symmetric, normalize, reduction, process_group      see :func:`simtile.functional.matryoshka_info_nce`

    Examples
    --------
    >>> import torch
    >>> MatryoshkaInfoNCELoss([2, 4], temperature=0.5)(torch.eye(4), torch.eye(4))
    tensor(1.2043)
    """

    def __init__(
        self,
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        temperature: float = 0.07,
        *,
        learn_temperature: bool = False,
        max_scale: float = 100.0,
        symmetric: bool = False,
        normalize: bool = True,
        reduction: Reduction = "mean",
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            temperature, learn_temperature, max_scale, dims=list(dims),
            weights=None if weights is None else list(weights), symmetric=symmetric, normalize=normalize,
            reduction=reduction, process_group=process_group,
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
        """The loss of queries (M, D) and keys (N, D): :func:`simtile.functional.matryoshka_info_nce`."""
        return functional.matryoshka_info_nce(
            query, key, temperature=self.current_temperature(), query_ids=query_ids, key_ids=key_ids, weight=weight,
            **self.options,
        )  # fmt: skip


class Matryoshka2dLoss(ContrastiveLoss):
    """Matryoshka InfoNCE of several layers, each drawn to the last, arXiv:2402.14776.

    Parameters
    ----------
    dims : sequence of int      the prefixes' lengths
    temperature, learn_temperature, max_scale      see :class:`ContrastiveLoss`
    layer_weights, kl_weight, kl_temperature, weights, symmetric, reduction
        see :func:`simtile.functional.matryoshka_2d`
    """

    def __init__(
        self, dims: Sequence[int], temperature: float = 0.05, *, learn_temperature: bool = False,
        max_scale: float = 100.0, layer_weights: Sequence[float] | None = None, kl_weight: float = 1.0,
        kl_temperature: float = 0.3, weights: Sequence[float] | None = None, symmetric: bool = False,
        reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__(
            temperature, learn_temperature, max_scale, dims=list(dims), layer_weights=layer_weights,
            kl_weight=kl_weight, kl_temperature=kl_temperature, weights=weights, symmetric=symmetric,
            reduction=reduction,
        )  # fmt: skip

    def forward(
        self,
        query_layers: Sequence[Tensor],
        key_layers: Sequence[Tensor],
        *,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of layers of queries (M, D) and keys (N, D), the last one last."""
        return functional.matryoshka_2d(
            query_layers, key_layers, temperature=self.current_temperature(), query_ids=query_ids, key_ids=key_ids,
            weight=weight, **self.options,
        )  # fmt: skip
