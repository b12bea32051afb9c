"""Scores of listed pairs (rows[p], columns[p]) in memory of the list's length, and their log-sum-exp by row.

A list with few pairs of each row is gathered, D multiplications a pair; one that holds a good part of all pairs is read
from products of a few rows at a time. Either way the backward pass computes a chunk again instead of keeping it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simtile._pairs import loss_dtype
from simtile._plan import WORKSPACE_BYTES
from simtile.kernels.reference_torch import logsumexp

if TYPE_CHECKING:
    from collections.abc import Callable

GATHERED_SHARE = 1 / 32
"""Up to this share of all pairs they are gathered: with gradients a gathered pair takes about as long as 32 pairs of a
product (one core, width 128, 2,048 rows with 100 pairs each: 0.35 s gathered, 0.18 s from products)."""


def listed_scores(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(P,) <x[rows[p]], y[columns[p]]>; duplicates are allowed, gradients reach x and y.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    rows, columns : integer Tensor (P,)
    """
    if not _few(x, y, rows):
        (rows, columns), order = _by_row(rows, columns)
        found = torch.cat(_in_chunks_of_rows(_products, x, y, rows, columns))
        return found if order is None else found[order.argsort()]
    pairs = rows.shape[0]
    # A chunk's backward pass starts from zeros of the size of x and y, so it should not be smaller than these.
    step = max(WORKSPACE_BYTES // (2 * x.shape[1] * max(x.dtype.itemsize, 4)), x.shape[0] + y.shape[0])
    if pairs <= step:
        return _gathered(x, y, rows, columns)
    starts = range(0, pairs, step)
    return torch.cat([_again(_gathered, x, y, rows[s : s + step], columns[s : s + step]) for s in starts])


def listed_lse(x: Tensor, y: Tensor, scale: float, rows: Tensor, columns: Tensor) -> Tensor:
    """(M,) log-sum-exp of scale · <x_i, y_j> over the listed pairs of each row, -inf for a row without any.

    A pair that is listed twice counts twice.
    """
    if _few(x, y, rows):
        return segment_lse(scale * listed_scores(x, y, rows, columns), rows, x.shape[0])
    (rows, columns), _ = _by_row(rows, columns)
    return torch.cat(_in_chunks_of_rows(_lse_of_products, scale * x, y, rows, columns))


def segment_lse(scores: Tensor, rows: Tensor, M: int) -> Tensor:
    """(M,) log-sum-exp of the scores (P,) of each row, -inf for a row without any."""
    top = scores.new_full((M,), -torch.inf).scatter_reduce(0, rows, scores.detach(), "amax")
    shift = top.masked_fill(torch.isneginf(top), 0.0)
    sums = scores.new_zeros(M).index_add(0, rows, (scores - shift[rows]).exp())
    return sums.log() + shift


def equal_pairs(
    x_ids: Tensor, y_ids: Tensor, *, most: int | None = None, off_diagonal: bool = False
) -> tuple[Tensor, Tensor] | None:
    """The pairs of equal ids as a CSR list (indptr, indices), or None if there are more than ``most`` a row on average.

    ``off_diagonal`` leaves out the pairs (i, i). Counting waits for a GPU.
    """
    M = x_ids.shape[0]
    ordered, order = y_ids.sort(stable=True)
    first, last = (torch.searchsorted(ordered, x_ids, right=side) for side in (False, True))
    counts = last - first
    total = int(counts.sum())
    if most is not None and total > most * M:
        return None
    numbers = torch.arange(max(M + 1, total), device=x_ids.device)
    rows = numbers[:M].repeat_interleave(counts)
    ends = counts.cumsum(0)
    columns = order[numbers[:total] + (first - ends + counts)[rows]]
    if off_diagonal:
        kept = rows != columns
        rows, columns = rows[kept], columns[kept]
    return torch.searchsorted(rows, numbers[: M + 1]), columns


def increasing(values: Tensor, *, strictly: bool = False) -> bool:
    """Whether each value is at least, or more than, the one before."""
    return bool((values[1:] > values[:-1]).all() if strictly else (values[1:] >= values[:-1]).all())


def _few(x: Tensor, y: Tensor, rows: Tensor) -> bool:
    return rows.shape[0] <= GATHERED_SHARE * x.shape[0] * y.shape[0]


def _by_row(rows: Tensor, columns: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """The list in the order of its rows, and this order; None where it is in order, as from ``torch.where``."""
    if increasing(rows):
        return (rows, columns), None
    order = torch.argsort(rows, stable=True)
    return (rows[order], columns[order]), order


def _in_chunks_of_rows(
    compute: Callable[..., Tensor], x: Tensor, y: Tensor, rows: Tensor, columns: Tensor
) -> list[Tensor]:
    """``compute(x, y, rows, columns)`` of as many rows of x at a time as keep two chunks of scores in the workspace."""
    step = max(WORKSPACE_BYTES // (2 * y.shape[0] * max(x.dtype.itemsize, 4)), 1)
    starts = list(range(0, x.shape[0], step))
    ends = torch.searchsorted(rows, torch.tensor([s + step for s in starts], device=rows.device)).tolist()
    parts = zip(starts, [0, *ends], ends, strict=False)
    chunks = [(x[start : start + step], y, rows[a:b] - start, columns[a:b]) for start, a, b in parts]
    return [compute(*chunks[0])] if len(chunks) == 1 else [_again(compute, *chunk) for chunk in chunks]


def _gathered(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    dtype = loss_dtype(x)
    return (x.index_select(0, rows).to(dtype) * y.index_select(0, columns).to(dtype)).sum(1)


def _product(x: Tensor, y: Tensor) -> Tensor:
    dtype = loss_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return x.to(dtype) @ y.to(dtype).T


def _products(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return _product(x, y)[rows, columns]


def _lse_of_products(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    s = _product(x, y)
    times = torch.zeros_like(s).index_put_((rows, columns), torch.ones_like(s[:1, :1]).squeeze(), accumulate=True)
    return logsumexp(s + times.log_(), 1)


def _again(compute: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    scores: Tensor = checkpoint(compute, *arguments, use_reentrant=False)
    return scores
