"""Scores of listed pairs (rows[p], columns[p]), in memory of the list's length.

A list with few pairs of each row is gathered, D multiplications a pair; one that holds a good part of all pairs is read
from a product of a few rows at a time. Either way the backward pass computes a chunk again instead of keeping it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simtile._pairs import loss_dtype
from simtile._plan import WORKSPACE_BYTES

GATHERED_SHARE = 1 / 16
"""Up to this share of all pairs they are gathered: a gathered pair takes about as long as 16 pairs of a product."""


def listed_scores(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(P,) <x[rows[p]], y[columns[p]]>; duplicates are allowed, gradients reach x and y.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    rows, columns : integer Tensor (P,)
    """
    pairs = rows.shape[0]
    if pairs > GATHERED_SHARE * x.shape[0] * y.shape[0]:
        return _from_products(x, y, rows, columns)
    # A chunk's backward pass starts from zeros of the size of x and y, so it should not be smaller than these.
    step = max(WORKSPACE_BYTES // (2 * x.shape[1] * max(x.dtype.itemsize, 4)), x.shape[0] + y.shape[0])
    if pairs <= step:
        return _gathered(x, y, rows, columns)
    starts = range(0, pairs, step)
    return torch.cat([_again(_gathered, x, y, rows[s : s + step], columns[s : s + step]) for s in starts])


def segment_lse(scores: Tensor, rows: Tensor, M: int) -> Tensor:
    """(M,) log-sum-exp of the scores (P,) of each row, -inf for a row without any."""
    top = torch.full_like(scores[:1], -torch.inf).expand(M).scatter_reduce(0, rows, scores.detach(), "amax")
    shift = top.masked_fill(torch.isneginf(top), 0.0)
    sums = scores.new_zeros(M).index_add(0, rows, (scores - shift[rows]).exp())
    return sums.log() + shift


def _from_products(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    order = torch.argsort(rows, stable=True)
    rows, columns = rows[order], columns[order]
    step = max(WORKSPACE_BYTES // (2 * y.shape[0] * max(x.dtype.itemsize, 4)), 1)
    starts = list(range(0, x.shape[0], step))
    ends = torch.searchsorted(rows, torch.tensor([s + step for s in starts], device=rows.device)).tolist()
    run = _product if len(starts) == 1 else _product_again
    parts = [
        run(x[start : start + step], y, rows[a:b] - start, columns[a:b])
        for start, a, b in zip(starts, [0, *ends], ends, strict=False)
    ]
    return torch.cat(parts)[torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))]


def _gathered(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    dtype = loss_dtype(x)
    return (x.index_select(0, rows).to(dtype) * y.index_select(0, columns).to(dtype)).sum(1)


def _product(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    dtype = loss_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return (x.to(dtype) @ y.to(dtype).T)[rows, columns]


def _product_again(*arguments: Tensor) -> Tensor:
    return _again(_product, *arguments)


def _again(compute: object, *arguments: Tensor) -> Tensor:
    scores: Tensor = checkpoint(compute, *arguments, use_reentrant=False)
    return scores
