"""Target weights that never need every pair: linear functions of the scores factorise.

    T_i = Σ_j w_ij s_ij,  W_i = Σ_j w_ij        s_ij = scale · <x_i, y_j>,  x (M, D),  y (N, D)

A loss over all pairs is a reduction minus such a target, R_i - T_i. Whatever the weights, here T costs O((M + N)·D)
memory and no pass over the pairs:

    partner        w_ij = [i = j]                 x_i · y_i
    same_label     w_ij = [id_i = id_j]           x_i · Σ_{same id} y_j
    candidate_mean w_ij = 1 / n_i, kept pairs     x_i · (Σ_j y_j - Σ_{same id} y_j) / n_i
    bilinear       w_ij = a + b <p_i, q_j>        a x_i · Σ_j y_j + b x_iᵀ (Σ_j y_j q_jᵀ) p_i
    teacher        w_ij = softmax_j(c <p_i, q_j>) x_i · attention(p, q, value=y)_i, chunk by chunk
    listed         w_ij in CSR form               a gather, nnz·D operations

Gradients reach x, y, a tensor scale and, where they are given as tensors that require it, the weights of ``listed``;
ids, features and teachers are constants. Statistics are float32, or float64 for float64 inputs. ``pool`` says whose
rows y has: those of this process, or of all ranks of a process group (:mod:`simtile.distributed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
    from torch.autograd import Function
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from torch.nn import functional as F

from simtile._first_order import apply, first_order
from simtile._pair_lists import listed_scores
from simtile._pairs import Scale, check_like, check_matrix, csr_rows, loss_dtype, traced
from simtile._pool import LOCAL
from simtile._torch_engine import LOG2_E

if TYPE_CHECKING:
    from simtile._pool import Pool

__all__ = ["Target", "bilinear", "candidate_mean", "listed", "partner", "same_label", "teacher"]

_CHUNK_BYTES = 4 << 20
"""Bound of the weights that :func:`teacher` holds at a time."""


class Target(NamedTuple):
    """Weighted sums of scores, and of the weights."""

    score: Tensor
    """(M,) Σ_j w_ij s_ij."""
    total: Tensor
    """(M,) Σ_j w_ij."""

    @property
    def mean(self) -> Tensor:
        """(M,) score / total; 0 where no weight is."""
        empty = self.total == 0
        return self.score.masked_fill(empty, 0.0) / self.total.masked_fill(empty, 1.0)


def partner(x: Tensor, y: Tensor, *, scale: Scale = 1.0) -> Target:
    """Row i's own pair (i, i); y may have more rows than x.

    Raises ValueError if y has fewer.
    """
    _check(x, y)
    M = x.shape[0]
    if y.shape[0] < M:
        raise ValueError(f"y: at least as many rows as x, {M}, got {y.shape[0]}")
    score = row_dot(x, y[:M]) * scale
    return Target(score, torch.ones_like(score))


def same_label(
    x: Tensor, y: Tensor, x_ids: Tensor, y_ids: Tensor, *, scale: Scale = 1.0, skip_diagonal: bool = False,
    pool: Pool | None = None,
) -> Target:  # fmt: skip
    """All pairs of equal ids, with weight 1 each: class sums.

    Parameters
    ----------
    x_ids, y_ids : integer Tensor (M,), (N,)
    skip_diagonal : bool      the pairs (i, i) are left out where their ids are equal: y is x itself
    """
    _check(x, y)
    sums, counts = (pool or LOCAL).class_sums(x_ids, y, y_ids)
    if skip_diagonal:
        own = min(x.shape[0], y.shape[0])
        equal = F.pad((x_ids[:own] == y_ids[:own]).to(sums.dtype), (0, x.shape[0] - own))
        padded = F.pad(y[:own].to(sums.dtype), (0, 0, 0, x.shape[0] - own))
        sums, counts = sums - padded * equal[:, None], counts - equal
    return Target(row_dot(x, sums) * scale, counts)


def candidate_mean(
    x: Tensor, y: Tensor, own: Tensor, scale: Scale,
    x_ids: Tensor | None, y_ids: Tensor | None, own_ids: Tensor | None, pool: Pool, *,
    more: Tensor | None = None, more_scores: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(M,) mean of s_ij over the pool's rows j of ``y`` that differ in id from x_i, the pair's own row, and ``more``.

    What label smoothing subtracts. ``own (M,)`` is the score of each row's pair, a row of y whose id is ``own_ids``; it
    stays whatever its id. ``more (K, D)`` are candidates of every row, ``more_scores (M, K')`` scores of private ones.
    """
    dtype = loss_dtype(x)
    total, rows = pool.row_sum(y)
    count = torch.zeros_like(own) + rows
    if more is not None:
        total = total + more.to(dtype).sum(0)
        count = count + more.shape[0]
    sums = (x.to(dtype) * total).sum(1) * scale
    if x_ids is not None and y_ids is not None and own_ids is not None:
        same = same_label(x, y, x_ids, y_ids, scale=scale, pool=pool)
        kept = x_ids == own_ids  # the pair went with its class and comes back
        sums = sums - same.score + torch.where(kept, own, 0.0)
        count = count - same.total + kept
    if more_scores is not None:
        sums = sums + more_scores.sum(1)
        count = count + more_scores.shape[1]
    return sums / count


def bilinear(
    x: Tensor, y: Tensor, p: Tensor, q: Tensor, *, offset: float = 0.5, slope: float = 0.5, scale: Scale = 1.0,
    pool: Pool | None = None,
) -> Target:  # fmt: skip
    """Weights offset + slope·<p_i, q_j> from a second pair of features, p (M, E) and q (N, E): CWCL's continuous ones.

    O((M + N)·D·E) operations. The defaults map cosines to [0, 1].
    """
    _check(x, y, p, q)
    dtype = loss_dtype(x)
    p, q = p.detach().to(dtype), q.detach().to(dtype)
    pool = pool or LOCAL  # not as a default value, which torch.compile cannot follow
    summed, rows = pool.row_sum(y)
    with torch.autocast(x.device.type, enabled=False):
        product = q.T @ y.to(dtype)
        product = pool.row_sum(product.reshape(1, -1))[0].view_as(product)  # each process's is one row of the sum
        mixed = p @ product * slope + summed * offset
        total = (p * pool.row_sum(q)[0]).sum(1) * slope + offset * rows
    return Target(row_dot(x, mixed) * scale, total)


def teacher(
    x: Tensor, y: Tensor, p: Tensor, q: Tensor, *, teacher_scale: float = 1.0, scale: Scale = 1.0,
    skip_diagonal: bool = False,
) -> Target:  # fmt: skip
    """A teacher's softmax over all columns, softmax_j(teacher_scale·<p_i, q_j>), p (M, E), q (N, E): distillation.

    An attention with y as values whose weights are made a chunk of rows at a time, 4 MiB, and again in the backward
    pass. Teachers are frozen and only the values need a gradient: torch's ``scaled_dot_product_attention`` would make
    all three, and stores the weights unless E and D are padded to one width. ``skip_diagonal`` takes the pairs (i, i)
    out of the softmax, as a self-similarity needs.
    """
    _check(x, y, p, q)
    score = row_dot(x, attended(y, p, q, teacher_scale=teacher_scale, skip_diagonal=skip_diagonal)) * scale
    return Target(score, torch.ones_like(score))


def attended(y: Tensor, p: Tensor, q: Tensor, *, teacher_scale: float = 1.0, skip_diagonal: bool = False) -> Tensor:
    """(M, D) the rows of y (N, D) averaged by a teacher's softmax: what :func:`teacher` multiplies with x."""
    dtype = loss_dtype(y)
    p, q, wide = p.detach().to(dtype), q.detach().to(dtype), y.to(dtype)
    attention = _traced_attention if traced(y) else _attention
    with torch.autocast(y.device.type, enabled=False):
        return attention(wide, p * teacher_scale, q, skip_diagonal)


def _attention(value: Tensor, p: Tensor, q: Tensor, skip_diagonal: bool) -> Tensor:
    mixed: Tensor = apply(_Attention, value, p, q, skip_diagonal)
    return mixed


def _traced_attention(value: Tensor, p: Tensor, q: Tensor, skip_diagonal: bool) -> Tensor:
    """What torch.compile can follow. One width for all, in four dimensions, keeps torch from storing the weights."""
    width, D = max(p.shape[1], value.shape[1]), value.shape[1]
    p, q, value = (F.pad(part, (0, width - part.shape[1]))[None, None] for part in (p, q, value))
    kept = None
    if skip_diagonal:
        kept = ~torch.eye(p.shape[2], q.shape[2], dtype=torch.bool, device=p.device)
    return F.scaled_dot_product_attention(p, q, value, attn_mask=kept, scale=1.0)[0, 0, :, :D]


class _Attention(Function):
    """(M, D) softmax(p qᵀ) value, differentiable by ``value (N, D)`` alone.

    All chunks use one buffer: fresh ones would be carved up by what lives on between them, and the heap would grow by
    nearly the whole (M, N).
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, p: Tensor, q: Tensor, skip_diagonal: bool) -> Tensor:
        ctx.save_for_backward(p, q)
        ctx.skip_diagonal = skip_diagonal
        mixed = value.new_empty((p.shape[0], value.shape[1]))
        buffer = _buffer(p, q)
        for start in range(0, p.shape[0], buffer.shape[0]):
            weights = _softmax_rows(buffer, p, q, start, skip_diagonal)
            mixed[start : start + buffer.shape[0]] = weights @ value
        return mixed

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,), (p, q) = grads, ctx.saved_tensors
        assert grad is not None
        found = grad.new_zeros((q.shape[0], grad.shape[1]))
        buffer = _buffer(p, q)
        for start in range(0, p.shape[0], buffer.shape[0]):
            weights = _softmax_rows(buffer, p, q, start, ctx.skip_diagonal)
            found.addmm_(weights.t(), grad[start : start + buffer.shape[0]])
        return found, None, None, None


def _buffer(p: Tensor, q: Tensor) -> Tensor:
    """(rows, N) of at most 4 MiB, and of at least one row."""
    M, N = p.shape[0], q.shape[0]
    return p.new_empty((max(1, min(M, _CHUNK_BYTES // (p.dtype.itemsize * max(N, 1)))), N))


def _softmax_rows(buffer: Tensor, p: Tensor, q: Tensor, start: int, skip_diagonal: bool) -> Tensor:
    """softmax(p qᵀ) of the rows from ``start`` on, as many as ``buffer`` takes and in it."""
    rows = p[start : start + buffer.shape[0]]
    s = torch.mm(rows, q.t(), out=buffer[: rows.shape[0]])
    if skip_diagonal and start < s.shape[1]:
        s.diagonal(start).fill_(-torch.inf)
    top = s.amax(1, keepdim=True).clamp_min_(torch.finfo(s.dtype).min)  # a row that has nobody but itself
    s.sub_(top).mul_(LOG2_E).exp2_()
    total = s.sum(1, keepdim=True)
    return s.div_(total.masked_fill_(total == 0, 1.0))


def listed(
    x: Tensor, y: Tensor, positives: tuple[Tensor, Tensor], *, weight: Tensor | None = None, scale: Scale = 1.0
) -> Target:
    """Explicit pairs, CSR ``positives = (indptr (M + 1,), indices (nnz,))``, with ``weight (nnz,)`` or 1 each."""
    _check(x, y)
    indptr, indices = positives
    rows = csr_rows(indptr, indices)
    scores = listed_scores(x, y, rows, indices) * scale
    weight = torch.ones_like(scores) if weight is None else weight.to(scores.dtype)
    zeros = scores.new_zeros(x.shape[0])
    return Target(zeros.index_add(0, rows, weight * scores), zeros.index_add(0, rows, weight))


def row_dot(x: Tensor, y: Tensor) -> Tensor:
    """(M,) <x_i, y_i> along the last dimension, in the loss's dtype."""
    dtype = loss_dtype(x)
    return (x.to(dtype) * y.to(dtype)).sum(-1)


def _check(x: Tensor, y: Tensor, p: Tensor | None = None, q: Tensor | None = None) -> None:
    check_matrix("x", x)
    check_like("y", y, "x", x)
    if p is None or q is None:
        return
    check_matrix("p", p)
    check_like("q", q, "p", p)
    for name, part, rows in (("p", p, x.shape[0]), ("q", q, y.shape[0])):
        if part.shape[0] != rows:
            raise ValueError(f"{name}: {rows} rows, got {part.shape[0]}")
