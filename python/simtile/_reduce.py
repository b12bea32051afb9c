"""Any score, any reduction, on any device: chunks of rows in torch, computed again in the backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simtile._pairs import check_choice, check_like, check_matrix, loss_dtype
from simtile._plan import WORKSPACE_BYTES
from simtile._topk import TopK
from simtile._torch_engine import chunk_rows
from simtile.kernels.reference_torch import logsumexp

if TYPE_CHECKING:
    from collections.abc import Callable

    ScoreMod = Callable[[Tensor, Tensor, Tensor], Tensor]


@overload
def pair_reduce(
    x: Tensor, y: Tensor, score_mod: ScoreMod | None, reduce: Literal["lse", "max", "sum"], *,
    k: None = None, chunk: int | None = None,
) -> Tensor: ...  # fmt: skip
@overload
def pair_reduce(
    x: Tensor, y: Tensor, score_mod: ScoreMod | None, reduce: Literal["topk"], *, k: int, chunk: int | None = None
) -> TopK: ...
def pair_reduce(
    x: Tensor, y: Tensor, score_mod: ScoreMod | None, reduce: Literal["lse", "max", "sum", "topk"], *,
    k: int | None = None, chunk: int | None = None,
) -> Tensor | TopK:  # fmt: skip
    """Reduce any function of the scores of all pairs, row by row, without storing them all.

    The slow, general sibling of the other operations, for scores that no kernel knows: margins, gates, learnt mixtures.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    score_mod : callable or None
        ``score_mod(s, i, j)`` with scores ``s (c, N) = x[i] @ y.T`` of a chunk of rows, row numbers ``i (c, 1)`` and
        column numbers ``j (1, N)``; returns (c, N) in any way autograd follows. Tensors it closes over get gradients.
        Return -inf to leave a pair out.
    reduce : {"lse", "max", "sum", "topk"}
    k : int      for "topk", at least 1
    chunk : int      rows at a time; default: as many as keep three chunks of scores in 16 MiB

    Returns
    -------
    Tensor (M,), or for "topk" a :class:`TopK` of (M, k)
        An empty row (N = 0 or all -inf) gives -inf, or 0 for "sum".

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Extra memory: a few chunks of scores, in the backward pass too, where each chunk is computed again. 16-bit inputs
    are multiplied in float32.

    Examples
    --------
    >>> x = torch.eye(3)
    >>> pair_reduce(x, x, lambda s, i, j: s.masked_fill(i == j, -torch.inf), "max")
    tensor([0., 0., 0.])
    """
    check_matrix("x", x)
    check_like("y", y, "x", x)
    check_choice("reduce", reduce, ("lse", "max", "sum", "topk"))
    if (reduce == "topk") != (k is not None) or (k is not None and k < 1):
        raise ValueError(f"k: at least 1 for reduce='topk' and None otherwise, got {k} with reduce={reduce!r}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: at least 1 row, got {chunk}")
    M, N = x.shape[0], y.shape[0]
    rows = chunk or chunk_rows(M, N, max(x.dtype.itemsize, 4), WORKSPACE_BYTES)
    joined = by_rows(lambda part: _chunk(x[part], y, part.start, score_mod=score_mod, reduce=reduce, k=k), M, rows)
    return joined[0] if reduce != "topk" else TopK(joined[0], joined[1])


def by_rows(compute: Callable[[slice], tuple[Tensor, ...]], M: int, step: int) -> list[Tensor]:
    """The results of ``compute(rows)``, ``step`` of M rows at a time, joined; computed again in the backward pass."""
    parts: list[tuple[Tensor, ...]] = [
        checkpoint(compute, slice(start, min(start + step, M)), use_reentrant=False)
        for start in range(0, max(M, 1), step)
    ]
    return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def _chunk(
    x: Tensor, y: Tensor, start: int, *, score_mod: ScoreMod | None, reduce: str, k: int | None
) -> tuple[Tensor, ...]:
    dtype = loss_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        s = x.to(dtype) @ y.to(dtype).T
    if score_mod is not None:
        i = torch.arange(start, start + x.shape[0], device=x.device)[:, None]
        s = score_mod(s, i, torch.arange(y.shape[0], device=x.device)[None, :])
    if reduce == "sum":
        return (s.sum(1),)
    if reduce == "lse":
        return (logsumexp(s, 1),)
    s = torch.nn.functional.pad(s, (0, max((k or 1) - s.shape[1], 0)), value=-torch.inf)
    if reduce == "max":
        return (s.max(1).values,)
    best, ids = torch.sort(s, dim=1, descending=True, stable=True)
    best, ids = best[:, :k], ids[:, :k]
    return best, ids.masked_fill(best == -torch.inf, -1)
