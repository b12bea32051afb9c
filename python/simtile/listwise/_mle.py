"""ListMLE: the likelihood of an order, item after item against all that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._pairs import check_choice
from simtile._reductions import REDUCTIONS, reduced
from simtile.kernels.reference_torch import softplus
from simtile.listwise._tail_lse import Lists, as_background, as_lists, lists_tail

if TYPE_CHECKING:
    from simtile.functional import Reduction


def list_mle(
    scores: Tensor,
    indptr: Tensor | None = None,
    *,
    relevance: Tensor | None = None,
    item_weight: Tensor | None = None,
    background: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """ListMLE: how likely the lists' right order is under a Plackett-Luce model of the scores.

    loss_g = Σ_r v_r log(1 + exp(T_r - s_r)), T_r the log-sum-exp of all that the item at place r is to precede

    Parameters
    ----------
    scores : Tensor (G, K), or (P,) with ``indptr``
    indptr : integer Tensor (G + 1,)      list g holds the items indptr[g] to indptr[g + 1] - 1
    relevance : Tensor like scores      the higher the further in front, a constant; equal ones stay as given. None: the
        items are in order
    item_weight : Tensor like scores      v, a constant; None: 1
    background : Tensor (G,)      log-sum-exp of further items that all of a list are to precede
    reduction : {"mean", "sum", "none"}      over lists

    Returns
    -------
    Tensor () or (G,)      float32, or float64 for float64 scores

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    One reverse cumulative log-sum-exp (:func:`tail_lse`), O(P) memory. Xia et al. 2008, "Listwise Approach to Learning
    to Rank", eq. 9.

    Examples
    --------
    >>> list_mle(torch.tensor([[2.0, 1.0, 0.0]]))
    tensor(0.7209)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    lists = as_lists("scores", scores, indptr)
    parts = {"relevance": relevance, "item_weight": item_weight}
    for name, part in parts.items():
        if part is not None and (not isinstance(part, Tensor) or part.shape != scores.shape):
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"{name}: a Tensor of the shape of scores, {tuple(scores.shape)}, got {got}")
    weight = None if item_weight is None else item_weight.detach().reshape(-1).to(lists.scores.dtype)
    if relevance is not None:
        order = list_order(lists, relevance.detach().reshape(-1))
        lists = lists._replace(scores=lists.scores[order])
        weight = None if weight is None else weight[order]
    return reduced(lists_nll(lists, weight, as_background(background, lists)), None, reduction)


def list_order(lists: Lists, relevance: Tensor) -> Tensor:
    """(P,) the items of each list by falling relevance, lists in their place."""
    order = torch.argsort(relevance, descending=True, stable=True)
    return order[torch.argsort(lists.row[order], stable=True)]


def lists_nll(lists: Lists, weight: Tensor | None, background: Tensor | None) -> Tensor:
    """(G,) the weighted sums over each list's items, in order, of log(1 + exp(T - s))."""
    # T leaves the item itself out, so that the coefficient is a sigmoid and never p - 1.
    tail = lists_tail(lists, background, exclusive=True)
    nothing = torch.isneginf(tail)
    loss = softplus(tail.masked_fill(nothing, 0.0) - lists.scores).masked_fill(nothing, 0.0)
    return loss.new_zeros(lists.number).index_add(0, lists.row, loss if weight is None else weight * loss)
