"""The family's reductions on scores that are stored: what small batches take, in as few torch calls as they need.

At a batch of 100 a call costs more than what it computes. One product makes the scores of a batch, whatever the loss;
every term, log-sum-exps over some of the pairs, own scores, weighted sums, is then read from them, and their gradients
meet in one matrix before two products take them to the embeddings.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from simtile._dense_products import finished, product, unit
from simtile._first_order import apply, first_order
from simtile._ops import in_own_precision
from simtile._pairs import Pairs, Scale, csr_rows, loss_dtype

STORED_PAIRS = 1536 * 1536
"""Up to this many pairs; beyond, the plan "dense" is carried out by :class:`TorchEngine`, which works in place."""


class LeftOut(NamedTuple):
    """Pairs that do not count."""

    mask: Tensor | None  # (M, N)
    perhaps_all: bool  # of a row or column


class Stored:
    """The scores of a batch, made when first asked for; gradients reach x, y and a tensor scale."""

    def __init__(self, x: Tensor, y: Tensor, scale: Scale, normalize: bool) -> None:
        self.x, self.y, self.scale, self.normalize = x, y, scale, normalize
        self._known: tuple[Pairs, LeftOut] | None = None

    @functools.cached_property
    def s(self) -> Tensor:
        """(M, N) scale · <x_i, y_j> in the loss's dtype, of normalised rows if asked for."""
        scores: Tensor = apply(_Scores, self.x, self.y, self.scale, self.normalize)
        return scores

    @functools.cached_property
    def own(self) -> Tensor:
        """(min(M, N),) the scores of the pairs (i, i)."""
        return self.s.diagonal()

    def lse(
        self, pairs: Pairs, *, power: float = 1.0, column: bool = False
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """(M,) row and (N,) column log-sum-exps of ``power`` times the kept scores."""
        s = self.s if power == 1.0 else self.s * power
        row, columns = apply(_LogSumExp, s, self._left_out(pairs), column)
        return row, columns

    def nll(self, pairs: Pairs, target: Tensor, *, link: str, column: bool = False) -> Tensor:
        """(M,) log-sum-exps of the kept scores minus the target, or its softplus; 0 for an empty row.

        ``column``: of the columns, (N,), as is the target.
        """
        loss: Tensor = apply(_NLL, self.s, self._left_out(pairs), target, link == "softplus", int(not column))
        return loss

    def spread(self, left_out: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
        """(M,) log-sum-exp Q, Q minus the mean, the number of each row's pairs, and whether each row has some.

        Of the pairs that are not in ``left_out (M, N)``. The spread's gradient is formed before anything is added to
        it: for a single pair exactly 0. Looking for empty rows would wait for a GPU, where they are taken for granted.
        """
        kept = left_out.logical_not()
        number = kept.sum(1, dtype=self.s.dtype)
        full = number.device.type == "cpu" and bool(number.all())
        share = kept / (number if full else number.clamp_min(1.0))[:, None]
        lse, spread = apply(_Spread, self.s, LeftOut(left_out, not full), share)
        return lse, spread, number, full

    def bilinear_mean(self, p: Tensor, q: Tensor) -> Tensor:
        """(M,) mean of the scores with the weights (1 + <p_i, q_j>) / 2, constants; 0 where they sum to 0."""
        weights = _bilinear(p.detach(), q.detach(), self.s.dtype)
        return (weights * self.s).sum(1)

    def _left_out(self, pairs: Pairs) -> LeftOut:
        if self._known is None or self._known[0] is not pairs:
            never = pairs._replace(diagonal="keep") == Pairs() and min(self.x.shape[0], self.y.shape[0]) > 1
            self._known = pairs, LeftOut(self.left_out(pairs), not never)
        return self._known[1]

    def left_out(self, pairs: Pairs) -> Tensor | None:
        """(M, N) the pairs that do not count, or None."""
        M, N = self.x.shape[0], self.y.shape[0]
        parts = [_eye(M, N, self.x.device)] if pairs.diagonal == "skip" else []
        if pairs.x_ids is not None and pairs.y_ids is not None:
            differ = torch.ne if pairs.ids_mode == "only" else torch.eq
            parts.append(differ(pairs.x_ids[:, None], pairs.y_ids))
        if pairs.indptr is not None and pairs.indices is not None:
            parts.append(listed(pairs.indptr, pairs.indices, M, N))
        if pairs.threshold is not None:
            compared = self.s.detach()
            if pairs.guide_x is not None and pairs.guide_y is not None:
                compared = pairs.guide_x.to(compared.dtype) @ pairs.guide_y.to(compared.dtype).t()
            parts.append(compared > pairs.threshold[:, None])
        return functools.reduce(torch.logical_or, parts) if parts else None


class StoredViews(Stored):
    """Two views (B, D) each, [a; b], against themselves: the own pair is the other view, and left out, as is (i, i)."""

    def __init__(self, views: Tensor, scale: Scale, normalize: bool) -> None:
        super().__init__(views, views, scale, normalize)

    @functools.cached_property
    def own(self) -> Tensor:
        """(2B,) the scores of each view and the other of its item."""
        partner = self.s.diagonal(self.x.shape[0] // 2)
        return torch.cat([partner, partner])

    def left_out(self, pairs: Pairs) -> Tensor | None:
        """(2B, 2B) the same for every loss of views."""
        return _views_eye(self.x.shape[0], self.x.device)

    def _left_out(self, pairs: Pairs) -> LeftOut:
        return LeftOut(self.left_out(pairs), self.x.shape[0] <= 2)


def listed(indptr: Tensor, indices: Tensor, M: int, N: int) -> Tensor:
    """(M, N) whether a pair is in a CSR list."""
    found = torch.zeros((M, N), dtype=torch.bool, device=indptr.device)
    found[csr_rows(indptr, indices), indices] = True
    return found


@in_own_precision
def _bilinear(p: Tensor, q: Tensor, dtype: torch.dtype) -> Tensor:
    """(M, N) (1 + <p_i, q_j>) / 2 divided by each row's sum."""
    weights = torch.mm(p.to(dtype), q.to(dtype).t()).add_(1.0)
    total = weights.sum(1, keepdim=True)
    return weights.div_(total.masked_fill_(total == 0, 1.0))


@functools.lru_cache(maxsize=4)
def _eye(M: int, N: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.eye(M, N, dtype=torch.bool, device=device)


@functools.lru_cache(maxsize=4)
def _views_eye(rows: int, device: torch.device) -> Tensor:
    """(rows, rows) the pairs of a view with itself and with its partner."""
    with torch.inference_mode(False):
        eye = torch.eye(rows, dtype=torch.bool, device=device)
        return eye | eye.roll(rows // 2, 0)


class _Scores(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Scale, normalize: bool) -> Tensor:
        ctx.scale, ctx.same = scale if isinstance(scale, float) else None, y is x
        s, rows = _scores(x, y, scale, normalize)
        ctx.save_for_backward(x, y, scale if isinstance(scale, Tensor) else None, *rows)
        return s

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, *rows = ctx.saved_tensors
        scale = ctx.scale if scale is None else scale
        return *_from_scores(grad, x, y, scale, rows, ctx.needs_input_grad, ctx.same), None


@in_own_precision
def _scores(x: Tensor, y: Tensor, scale: Scale, normalize: bool) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The scores, and what they are products of: rows in the loss's dtype, and their lengths or None."""
    dtype, same = loss_dtype(x), y is x
    x_norm = y_norm = None
    if normalize:
        x, x_norm = unit(x)
        y, y_norm = (x, x_norm) if same else unit(y)
    x = x.to(dtype)
    y = x if same else y.to(dtype)
    s = product(x, y.t(), scale) if isinstance(scale, float) else torch.mm(x, y.t()).mul_(scale)
    return s, (x, y, x_norm, y_norm)


@in_own_precision
def _from_scores(
    grad: Tensor, x: Tensor, y: Tensor, scale: Scale, rows: list[Tensor], want: tuple[bool, ...], same: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, y and the scale from that of the scores."""
    x_rows, y_rows, x_norm, y_norm = rows
    factor = scale if isinstance(scale, float) else 1.0
    dx = dy = dscale = None
    if want[0] or want[2]:
        dx = product(grad + grad.t() if same else grad, y_rows, factor)  # against itself, one product for both sides
        if want[2]:
            # Before the scale is multiplied in, so that a scale of 0 has a gradient.
            dscale = (dx * x_rows).sum() / (2 if same else 1)
        dx = finished(dx, scale, x, x_rows, x_norm) if want[0] else None
    if want[1] and not same:
        dy = finished(product(grad.t(), x_rows, factor), scale, y, y_rows, y_norm)
    return None if dx is None else dx.to(x.dtype), None if dy is None else dy.to(y.dtype), dscale


class _NLL(Function):
    """(M,) log-sum-exp of the kept scores minus a target, or its softplus, with what the gradient needs."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, left_out: LeftOut, target: Tensor, softplus: bool, dim: int) -> Tensor:
        lse, p, empty = _lse(s, left_out, dim)
        z = lse - target
        slope = None
        if softplus:
            z, slope = torch.nn.functional.logsigmoid(-z).neg_(), z.sigmoid()
        elif empty is not None:
            z, slope = z.masked_fill(empty, 0.0), (~empty).to(z.dtype)
        ctx.dim = dim
        ctx.save_for_backward(p, slope)
        return z

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, slope = ctx.saved_tensors
        slope = grad if slope is None else slope * grad
        return p * slope.unsqueeze(ctx.dim), None, slope.neg(), None, None


class _LogSumExp(Function):
    """Of rows and columns of s without the pairs left out; an empty one gives -inf and no gradient."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, left_out: LeftOut, column: bool) -> tuple[Tensor, Tensor | None]:
        rows, p, _ = _lse(s, left_out, 1)
        columns, q, _ = _lse(s, left_out, 0) if column else (None, None, None)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(p, q)
        return rows, columns

    @staticmethod
    @first_order
    def backward(ctx: Any, row_grad: Tensor | None, column_grad: Tensor | None = None) -> tuple[Tensor | None, ...]:
        p, q = ctx.saved_tensors
        total: Tensor | None = None
        if row_grad is not None:
            total = p * row_grad[:, None]
        if column_grad is not None:
            total = q * column_grad if total is None else total.addcmul_(q, column_grad)
        return total, None, None


class _Spread(Function):
    """(M,) log-sum-exp of the kept scores, and it minus their mean."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, left_out: LeftOut, share: Tensor) -> tuple[Tensor, Tensor]:
        lse, p, empty = _lse(s, left_out, 1)
        spread = (lse if empty is None else lse.masked_fill(empty, 0.0)) - (share * s).sum(1)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(p, share)
        return lse, spread

    @staticmethod
    @first_order
    def backward(ctx: Any, lse_grad: Tensor | None, spread_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        p, share = ctx.saved_tensors
        total: Tensor | None = None
        if spread_grad is not None:
            total = (p - share).mul_(spread_grad[:, None])
        if lse_grad is not None:
            total = p * lse_grad[:, None] if total is None else total.addcmul_(p, lse_grad[:, None])
        return total, None, None


def _lse(s: Tensor, left_out: LeftOut, dim: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-sum-exp along ``dim``, its derivative (M, N), and where nothing is kept: -inf, with a derivative of 0.

    The softmax is what takes time at this size, and torch has it in one call: its largest entry gives the sum back.
    """
    kept = s if left_out.mask is None else s.masked_fill(left_out.mask, -torch.inf)
    if s.shape[dim] == 0:
        lse = s.new_full((s.shape[1 - dim],), -torch.inf)
        return lse, kept, lse == -torch.inf
    top, p = kept.amax(dim), torch.softmax(kept, dim)
    lse = top - p.amax(dim).log_()
    if not left_out.perhaps_all:
        return lse, p, None
    empty = top == -torch.inf
    return lse.masked_fill_(empty, -torch.inf), p.masked_fill_(empty.unsqueeze(dim), 0.0), empty
