"""The reductions in plain torch, a chunk of rows at a time, with closed-form gradients.

    s[i, j] = scale * <x[i], y[j]> + x_bias[i] + y_bias[j]        chunks (rows, N) of s (M, N)

One chunk of all rows is the plan "dense": small problems, where a launch of the tile engine costs more than it saves.
Smaller chunks serve what no tile engine serves: float64, and devices without kernels. Any device, any float dtype;
16-bit inputs are computed in float32, so that no score is rounded to 16 bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from simtile._normalize import SHORTEST
from simtile._pairs import Gradients, Pairs, Scale, Want, csr_rows, gradient_dtype, loss_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG2_E = math.log2(math.e)
"""exp(s) is taken as exp2(LOG2_E * s): on the CPU torch's exp is up to 30 times slower where its result is denormal."""


class _Chunk(NamedTuple):
    rows: slice
    x: Tensor  # (rows, D)
    s: Tensor  # (rows, N), -inf where left out
    own: Tensor | None  # (<= rows,) scores of the pairs (i, i) before they were left out
    flip: Tensor | None  # (rows, N) bool, pairs whose sign turns


def chunk_rows(M: int, N: int, item_bytes: int, workspace_bytes: int) -> int:
    """How many rows of scores fit into a workspace that holds about three such chunks; at least one."""
    return max(1, min(M, workspace_bytes // (3 * item_bytes * max(N, 1))))


class TorchEngine:
    """The engine interface on plain torch, ``rows`` rows of scores at a time."""

    def __init__(self, rows: int) -> None:
        self.rows = max(rows, 1)

    def lse(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        row: bool, column: bool, positive: bool, stash: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Row (M,) and column (N,) log-sum-exp, own scores s_ii (min(M, N),), and the scores if they are one chunk."""
        rows: list[Tensor] = []
        owns: list[Tensor] = []
        columns = x.new_full((y.shape[0],), -math.inf, dtype=loss_dtype(x)) if column else None
        kept: Tensor | None = None
        for chunk in self._chunks(x, y, scale, biases, pairs, own=positive):
            if row:
                rows.append(torch.logsumexp(chunk.s, 1))
            if columns is not None:
                part = torch.logsumexp(chunk.s, 0)
                columns = part if self.rows >= x.shape[0] else torch.logaddexp(columns, part)
            if chunk.own is not None:
                owns.append(chunk.own)
            kept = chunk.s
        empty = x.new_empty(0, dtype=loss_dtype(x))
        return (
            _joined(rows, empty) if row else None,
            columns,
            _joined(owns, empty) if positive else None,
            kept if stash and self.rows >= x.shape[0] else None,
        )

    def grad(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        lse: tuple[Tensor | None, Tensor | None], grads: tuple[Tensor | None, Tensor | None, Tensor | None],
        stash: Tensor | None, want: Want,
    ) -> Gradients:  # fmt: skip
        """Gradients for those of the row and column log-sum-exps and of the own scores."""
        # An empty row has only -inf: any finite stand-in for its log-sum-exp leaves exp(-inf) = 0 instead of NaN.
        row, column = (None if part is None else part.masked_fill(part == -math.inf, 0.0) for part in lse)
        row_grad, column_grad, own_grad = grads
        sums = _Sums(x, y, scale, want)
        for chunk in self._chunks(x, y, scale, biases, pairs, scores=stash):
            p: Tensor | None = None
            if row is not None and row_grad is not None:
                p = (chunk.s - row[chunk.rows, None]).mul_(LOG2_E).exp2_().mul_(row_grad[chunk.rows, None])
            if column is not None and column_grad is not None:
                q = (chunk.s - column).mul_(LOG2_E).exp2_().mul_(column_grad)
                p = q if p is None else p.add_(q)
            if p is None:
                p = torch.zeros_like(chunk.s)
            if own_grad is not None:
                own = p.diagonal(chunk.rows.start) if chunk.rows.start < p.shape[1] else p.new_empty(0)
                own.add_(own_grad[chunk.rows.start : chunk.rows.start + own.shape[0]])
            sums.add(chunk, p)
        return sums.gradients()

    def nll(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        link: str, weight: Tensor | None, target: Tensor | None, want: Want,
    ) -> tuple[Tensor, Tensor, Gradients]:  # fmt: skip
        """Row losses, the coefficients weight * link' (M,), and the gradients of Σ_i weight_i loss_i."""
        losses: list[Tensor] = []
        coefficients: list[Tensor] = []
        sums = _Sums(x, y, scale, want)
        for chunk in self._chunks(x, y, scale, biases, pairs, own=target is None):
            s = chunk.s
            right = target[chunk.rows] if target is not None else chunk.own
            assert right is not None
            if s.shape[1] == 0:
                top, total = s.new_full((s.shape[0], 1), -math.inf), s.new_zeros(s.shape[0])
            else:
                top = s.amax(1, keepdim=True).clamp_min_(torch.finfo(s.dtype).min)
                s.sub_(top).mul_(LOG2_E).exp2_()
                total = s.sum(1)
            z = total.log().add_(top.squeeze(1)).sub_(right)
            if link == "softplus":
                loss, coefficient = torch.nn.functional.logsigmoid(-z).neg_(), z.sigmoid()
            else:
                empty = total == 0
                loss, coefficient = z.masked_fill_(empty, 0.0), (~empty).to(z.dtype)
            if weight is not None:
                coefficient.mul_(weight[chunk.rows])
            losses.append(loss)
            coefficients.append(coefficient)
            if any(want):
                # The largest score adds exp(0) = 1, so a total below 1 is an empty row's 0.
                p = s.mul_((coefficient / total.clamp_min(1.0)).unsqueeze(1))
                if target is None:
                    p.diagonal(chunk.rows.start).sub_(coefficient)
                sums.add(chunk, p)
        empty_rows = x.new_empty(0, dtype=loss_dtype(x))
        return _joined(losses, empty_rows), _joined(coefficients, empty_rows), sums.gradients()

    def softplus(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        weight: Tensor | None, want: Want,
    ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """Row sums (M,) of softplus over the kept pairs, and the gradients of Σ_i weight_i rows_i."""
        totals: list[Tensor] = []
        sums = _Sums(x, y, scale, want)
        for chunk in self._chunks(x, y, scale, biases, pairs):
            s = chunk.s if chunk.flip is None else torch.where(chunk.flip, -chunk.s, chunk.s)
            totals.append(torch.nn.functional.logsigmoid(-s).sum(1).neg_())
            if any(want):
                p = s.sigmoid_()
                if chunk.flip is not None:
                    p = torch.where(chunk.flip, -p, p)
                sums.add(chunk, p if weight is None else p.mul_(weight[chunk.rows, None]))
        return _joined(totals, x.new_empty(0, dtype=loss_dtype(x))), sums.gradients()

    def nested_lse(
        self, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int],
        normalize: bool, row: bool, column: bool, own: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Row (K, M) and column (K, N) log-sum-exps and own scores (K, min(M, N)), one prefix after the other."""
        found = [
            self.lse(_prefix(x, d, normalize)[0], _prefix(y, d, normalize)[0], scale, (None, None), pairs,
                     row, column, own, False)
            for d in dims
        ]  # fmt: skip
        rows, columns, owns = ([part[i] for part in found] for i in range(3))
        return (
            torch.stack([part for part in rows if part is not None]) if row else None,
            torch.stack([part for part in columns if part is not None]) if column else None,
            torch.stack([part for part in owns if part is not None]) if own else None,
        )

    def nested_grad(
        self, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], normalize: bool,
        lse: tuple[Tensor | None, Tensor | None], grads: tuple[Tensor | None, Tensor | None, Tensor | None], want: Want,
    ) -> Gradients:  # fmt: skip
        """Gradients for those of what :meth:`nested_lse` returned."""
        dtype = loss_dtype(x)
        dx, dy = (torch.zeros(part.shape, dtype=dtype, device=x.device) for part in (x, y))
        dscale = x.new_zeros((), dtype=dtype)
        for k, d in enumerate(dims):
            (a, a_inverse), (b, b_inverse) = (_prefix(part, d, normalize) for part in (x, y))
            of_prefix = [[None if part is None else part[k] for part in parts] for parts in (lse, grads)]
            (row, column), (row_grad, column_grad, own_grad) = of_prefix
            found = self.grad(
                a, b, scale, (None, None), pairs, (row, column), (row_grad, column_grad, own_grad), None, want
            )
            for total, part, unit, inverse in ((dx, found.x, a, a_inverse), (dy, found.y, b, b_inverse)):
                if part is not None:
                    total[:, :d] += _by_row(part, unit, inverse)
            dscale += 0 if found.scale is None else found.scale
        dtype = gradient_dtype(x)
        return Gradients(
            dx.to(dtype) if want.x else None, dy.to(dtype) if want.y else None, dscale if want.scale else None
        )  # fmt: skip

    def rank(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Per row, how many kept scores are above its target (None: its own score), and how many equal it."""
        above: list[Tensor] = []
        equal: list[Tensor] = []
        for chunk in self._chunks(x, y, scale, biases, pairs, own=target is None):
            right = target[chunk.rows] if target is not None else chunk.own
            assert right is not None
            above.append((chunk.s > right[:, None]).sum(1))
            equal.append((chunk.s == right[:, None]).sum(1))
        nothing = torch.empty(0, dtype=torch.int64, device=x.device)
        return _joined(above, nothing), _joined(equal, nothing)

    def stats(self, bank: Tensor, y: Tensor, betas: list[float], k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """lse (len(betas), Ny), mean (Ny,), variance (Ny,), k largest (k, Ny) of <bank_i, y_j> over the bank."""
        dtype, count = loss_dtype(y), bank.shape[0]
        new = y.new_empty
        lse, top = new((len(betas), y.shape[0]), dtype=dtype), new((k, y.shape[0]), dtype=dtype).fill_(-math.inf)
        mean, var = (y.new_zeros(y.shape[0], dtype=dtype) for _ in range(2))
        for chunk in self._chunks(y, bank, 1.0, (None, None), Pairs()):
            for b, beta in enumerate(betas):
                lse[b, chunk.rows] = torch.logsumexp(beta * chunk.s, 1)
            if count:
                mean[chunk.rows] = chunk.s.mean(1)
                var[chunk.rows] = chunk.s.var(1, unbiased=False)
                taken = min(k, count)
                top[:taken, chunk.rows] = chunk.s.topk(taken, 1).values.t()
        return lse, mean, var, top

    def topk(
        self, x: Tensor, y: Tensor, k: int, y_scale: Tensor | None, y_bias: Tensor | None, pairs: Pairs
    ) -> tuple[Tensor, Tensor]:
        """The k largest y_scale_j <x_i, y_j> + y_bias_j of each row and their columns, ties by the smaller column."""
        values: list[Tensor] = []
        ids: list[Tensor] = []
        taken = min(k, y.shape[0])
        if y_scale is not None:  # <x, a y> instead of a <x, y>: a times the -inf of a left-out pair may be NaN
            y = y.to(loss_dtype(y)) * y_scale[:, None]
            x = x.to(y.dtype)
        for chunk in self._chunks(x, y, 1.0, (None, y_bias), pairs):
            # torch.topk promises no order among equals; a stable sort does.
            best, order = torch.sort(chunk.s, dim=1, descending=True, stable=True)
            best, order = best[:, :taken], order[:, :taken]
            values.append(torch.nn.functional.pad(best, (0, k - taken), value=-math.inf))
            padded = order.masked_fill(best == -math.inf, -1)
            ids.append(torch.nn.functional.pad(padded, (0, k - taken), value=-1))
        return (
            _joined(values, x.new_empty((0, k), dtype=loss_dtype(x))),
            _joined(ids, torch.empty((0, k), dtype=torch.int64, device=x.device)),
        )

    def _chunks(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        *, own: bool = False, scores: Tensor | None = None,
    ) -> Iterator[_Chunk]:  # fmt: skip
        """The scores chunk by chunk; ``scores`` are those of an earlier pass over the only chunk, already masked."""
        M, N = x.shape[0], y.shape[0]
        dtype = loss_dtype(x)
        y_t = y.to(dtype).t()
        x_bias, y_bias = biases
        excluded_rows = None
        if pairs.indptr is not None and pairs.indices is not None:
            excluded_rows = csr_rows(pairs.indptr, pairs.indices)
        for start in range(0, M, self.rows):
            rows = slice(start, min(start + self.rows, M))
            part = x[rows].to(dtype)
            if scores is not None:
                yield _Chunk(rows, part, scores, None, None)
                return
            s = torch.mm(part, y_t)
            if isinstance(scale, Tensor) or scale != 1.0:
                s.mul_(scale)
            if x_bias is not None:
                s.add_(x_bias[rows, None])
            if y_bias is not None:
                s.add_(y_bias)
            diagonal = s.diagonal(start) if start < N else s.new_empty(0)
            own_scores = diagonal.clone() if own else None
            flip: Tensor | None = None
            if pairs.x_ids is not None and pairs.y_ids is not None:
                equal = pairs.x_ids[rows, None] == pairs.y_ids
                if pairs.ids_mode == "flip":
                    flip = equal
                else:
                    s.masked_fill_(equal if pairs.ids_mode == "exclude" else ~equal, -math.inf)
            if pairs.threshold is not None:
                compared = s
                if pairs.guide_x is not None and pairs.guide_y is not None:
                    compared = pairs.guide_x[rows].to(dtype) @ pairs.guide_y.to(dtype).t()
                s.masked_fill_(compared > pairs.threshold[rows, None], -math.inf)
            if excluded_rows is not None and pairs.indices is not None:
                here = (excluded_rows >= rows.start) & (excluded_rows < rows.stop)
                s[excluded_rows[here] - start, pairs.indices[here]] = -math.inf
            if pairs.diagonal == "skip":
                diagonal.fill_(-math.inf)
            elif pairs.diagonal == "flip":
                flip = torch.zeros_like(s, dtype=torch.bool) if flip is None else flip
                if start < N:
                    flip.diagonal(start).fill_(True)
            yield _Chunk(rows, part, s, own_scores, flip)


def _prefix(x: Tensor, d: int, normalize: bool) -> tuple[Tensor, Tensor | None]:
    """(rows, d) of unit length in the loss's dtype, and what they were multiplied with (rows, 1)."""
    part = x[:, :d].to(loss_dtype(x))
    if not normalize:
        return part, None
    inverse = torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min_(SHORTEST).reciprocal_()
    return part * inverse, inverse


def _by_row(gradient: Tensor, unit: Tensor, inverse: Tensor | None) -> Tensor:
    """The gradient by a row from that by its unit vector."""
    if inverse is None:
        return gradient
    # A norm that was cut off is a constant.
    along = (gradient * unit).sum(1, keepdim=True).masked_fill_(inverse > 0.99 / SHORTEST, 0.0)
    return (gradient - unit * along) * inverse


class _Sums:
    """Gradients gathered over the chunks from P = dL/ds (rows, N) of each."""

    def __init__(self, x: Tensor, y: Tensor, scale: Scale, want: Want) -> None:
        self.x, self.y, self.scale, self.want = x, y, scale, want
        self.dtype = loss_dtype(x)
        self.x_parts: list[Tensor] = []
        self.x_bias_parts: list[Tensor] = []
        self.dy: Tensor | None = None
        self.dscale: Tensor | None = None
        self.dy_bias: Tensor | None = None

    def add(self, chunk: _Chunk, p: Tensor) -> None:
        want = self.want
        if want.x or want.scale:
            dx = torch.mm(p, self.y.to(self.dtype))
            if want.scale:
                part = (dx * chunk.x).sum()  # before the scale is multiplied in, so that a scale of 0 has a gradient
                self.dscale = part if self.dscale is None else self.dscale + part
            if want.x:
                self.x_parts.append(dx.mul_(self.scale))
        if want.y:
            if self.dy is None:
                self.dy = torch.mm(p.t(), chunk.x)
            else:
                self.dy.addmm_(p.t(), chunk.x)
        if want.x_bias:
            self.x_bias_parts.append(p.sum(1))
        if want.y_bias:
            part = p.sum(0)
            self.dy_bias = part if self.dy_bias is None else self.dy_bias + part

    def gradients(self) -> Gradients:
        want, x, y = self.want, self.x, self.y
        D = x.shape[1]
        if want.y and self.dy is not None:
            self.dy.mul_(self.scale)
        zero = x.new_zeros
        dy = zero((y.shape[0], D), dtype=self.dtype) if self.dy is None else self.dy
        dscale = zero((), dtype=self.dtype) if self.dscale is None else self.dscale
        dy_bias = zero(y.shape[0], dtype=self.dtype) if self.dy_bias is None else self.dy_bias
        return Gradients(
            _joined(self.x_parts, x.new_empty((0, D), dtype=self.dtype)).to(gradient_dtype(x)) if want.x else None,
            dy.to(gradient_dtype(y)) if want.y else None,
            dscale if want.scale else None,
            _joined(self.x_bias_parts, x.new_empty(0, dtype=self.dtype)) if want.x_bias else None,
            dy_bias if want.y_bias else None,
        )


def _joined(parts: list[Tensor], empty: Tensor) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else empty
