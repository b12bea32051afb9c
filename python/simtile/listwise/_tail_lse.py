"""Log-sum-exp of what comes after each item of a list: a reverse cumulative sum, many lists of any lengths at once.

    L_r = log(e^c + Σ_{k ≥ r} e^{s_k})        within the list of item r; c is the list's background

Windows double: after t steps an item holds the log-sum-exp of itself and the 2^t - 1 next. The gradient needs no
exponential above 1, for L falls along a list:

    ∂/∂s_k = e^{s_k - L_k} h_k,   h_k = Σ_{r ≤ k} g_r e^{L_k - L_r}        (again by doubling)

All lists go through together, O(P log K) work and O(P) memory for P items, K in the longest list.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from simtile._first_order import apply, first_order
from simtile._pairs import as_ids, csr_rows, loss_dtype


class Lists(NamedTuple):
    """Items of many lists, one list after the other."""

    scores: Tensor  # (P,) in the loss's dtype
    indptr: Tensor  # (G + 1,)
    row: Tensor  # (P,) the list that an item is in
    longest: int

    @property
    def number(self) -> int:
        """Of lists, G."""
        return self.indptr.shape[0] - 1


def tail_lse(
    scores: Tensor, indptr: Tensor | None = None, *, background: Tensor | None = None, exclusive: bool = False
) -> Tensor:
    """Log-sum-exp of each item and all that follow it in its list.

    Parameters
    ----------
    scores : Tensor (G, K), or (P,) with ``indptr``
    indptr : integer Tensor (G + 1,)      list g holds the items indptr[g] to indptr[g + 1] - 1; lists may be empty
    background : Tensor (G,)      a log-sum-exp that comes after a list's last item
    exclusive : bool      leave the item itself out: only what follows it

    Returns
    -------
    Tensor of the shape of scores      float32, or float64 for float64 scores; -inf where nothing follows

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    What ListMLE (Xia et al. 2008), stable distillation (arXiv:2310.07554) and Plackett-Luce models are made of. With
    ``indptr`` the longest list is looked up, for which a GPU is waited for.

    Examples
    --------
    >>> tail_lse(torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([[1.5514, 0.6931, 0.0000]])
    """
    lists = as_lists("scores", scores, indptr)
    return lists_tail(lists, as_background(background, lists), exclusive=exclusive).view(scores.shape)


def as_lists(name: str, scores: Tensor, indptr: Tensor | None) -> Lists:
    """Checked lists, flattened if they came as a matrix."""
    if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
        raise TypeError(f"{name}: a floating torch.Tensor, got {getattr(scores, 'dtype', type(scores).__name__)}")
    if scores.ndim != (2 if indptr is None else 1):
        wanted = "(lists, items) without indptr" if indptr is None else "(items,) with indptr"
        raise ValueError(f"{name}: shape {wanted}, got {tuple(scores.shape)}")
    flat = scores.reshape(-1).to(loss_dtype(scores))
    if indptr is None:
        G, K = scores.shape
        row = torch.arange(G, device=scores.device).repeat_interleave(K)
        return Lists(flat, torch.arange(G + 1, device=scores.device) * K, row, K)
    if not isinstance(indptr, Tensor) or indptr.ndim != 1 or indptr.shape[0] == 0:
        raise ValueError("indptr: a tensor (lists + 1,)")
    indptr = as_ids("indptr", indptr, indptr.shape[0], scores)
    lengths = indptr.diff()
    if int(indptr[0]) != 0 or int(indptr[-1]) != flat.shape[0] or bool((lengths < 0).any()):
        raise ValueError(f"indptr: from 0 upwards to the {flat.shape[0]} items")
    return Lists(flat, indptr, csr_rows(indptr, flat), int(lengths.max()) if lengths.shape[0] else 0)


def as_background(background: Tensor | None, lists: Lists) -> Tensor | None:
    """(G,) in the dtype of the scores."""
    if background is None:
        return None
    if not isinstance(background, Tensor) or background.shape != (lists.number,):
        got = tuple(background.shape) if isinstance(background, Tensor) else type(background).__name__
        raise ValueError(f"background: a Tensor ({lists.number},), got {got}")
    return background.to(lists.scores.dtype)


def lists_tail(lists: Lists, background: Tensor | None, *, exclusive: bool) -> Tensor:
    """(P,) :func:`tail_lse` of checked lists."""
    scores = lists.scores
    tail: Tensor = apply(_TailLse, scores, background, lists)
    if not exclusive or not scores.shape[0]:
        return tail
    none = scores.new_full((lists.number,), -torch.inf)
    after = (none if background is None else background)[lists.row]
    last = torch.arange(1, scores.shape[0] + 1, device=scores.device) == lists.indptr[1:][lists.row]
    return torch.where(last, after, tail.roll(-1))


class _TailLse(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, background: Tensor | None, lists: Lists) -> Tensor:
        tail, row = scores.clone(), lists.row
        for step in _steps(lists):
            following = tail[step:].masked_fill(row[step:] != row[:-step], -torch.inf)
            tail[:-step] = torch.logaddexp(tail[:-step], following)
        if background is not None:
            tail = torch.logaddexp(tail, background[row])
        ctx.save_for_backward(scores, background, tail)
        ctx.lists = lists
        return tail

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,), (scores, background, tail), lists = grads, ctx.saved_tensors, ctx.lists
        assert grad is not None
        # A tail of nothing, -inf, passes no gradient on; a finite stand-in keeps the differences from being NaN.
        nothing = torch.isneginf(tail)
        finite = tail.masked_fill(nothing, 0.0)
        carried = grad.masked_fill(nothing, 0.0)
        for step in _steps(lists):
            same = (lists.row[step:] == lists.row[:-step]) & ~nothing[step:]
            factor = (finite[step:] - finite[:-step]).exp() * same
            carried = torch.cat([carried[:step], carried[step:] + factor * carried[:-step]])
        by_scores = (scores - finite).exp() * carried.masked_fill(nothing, 0.0)
        if background is None or not ctx.needs_input_grad[1]:
            return by_scores, None, None
        by_background = torch.zeros_like(background)
        some = lists.indptr.diff() > 0
        last = lists.indptr[1:][some] - 1
        by_background[some] = ((background[some] - finite[last]).exp() * carried[last]).masked_fill(nothing[last], 0.0)
        return by_scores, by_background, None


def _steps(lists: Lists) -> list[int]:
    """1, 2, 4, ... below the longest list."""
    return [1 << t for t in range(max(lists.longest - 1, 0).bit_length())]
