"""Every kernel against float64 on the device at hand, before anything is timed.

The rule of the tests (tests/accuracy.py): a result may be at most twice as far from float64 as plain torch in the
same type, or a few last digits. On a card this also covers what an interpreter cannot: the hardware's exponential, the
tensor cores' sums, and programs that run at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from simtile.kernels.accumulate import Wanted
from simtile.kernels.nested_grad import nested_lse_bwd
from simtile.kernels.nested_lse import nested_lse_fwd
from simtile.kernels.pair_grad import pair_lse_bwd
from simtile.kernels.pair_lse import pair_lse_fwd
from simtile.kernels.pair_nll import pair_nll_fwd
from simtile.kernels.pair_rank import pair_rank_fwd
from simtile.kernels.pair_softplus import pair_softplus_fwd
from simtile.kernels.pair_stats import pair_stats_fwd
from simtile.kernels.pair_topk import pair_topk_fwd
from simtile.kernels.self_lse import self_lse_bwd, self_lse_fwd


@dataclass(frozen=True)
class Verdict:
    """The largest errors of one result, and whether it passes."""

    name: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


def judge(name: str, actual: Tensor, plain: Tensor, exact: Tensor, size: float | None = None) -> Verdict:
    """``size``: what a last digit is measured at, default the largest exact value."""
    if not bool(torch.isfinite(actual).all()):
        return Verdict(name, float("inf"), 0.0)
    eps = torch.finfo(actual.dtype).eps
    largest = float(exact.abs().max()) if size is None else size
    terms = max(exact.shape, default=1)
    allowed = max(2 * float((plain.double() - exact).abs().max()), max(4.0, terms**0.5) * eps * largest)
    return Verdict(name, float((actual.double() - exact).abs().max()), allowed)


def prove(device: torch.device, sizes: list[tuple[int, int, int]], dtypes: list[torch.dtype]) -> Iterator[Verdict]:
    """All verdicts for ragged M <= N and widths D."""
    for M, N, D in sizes:
        for dtype in dtypes:
            for scale in (14.0, 100.0):
                generator = torch.Generator(device).manual_seed(M * N + D)
                x, y = (
                    F.normalize(torch.randn(rows, D, device=device, generator=generator)).to(dtype) for rows in (M, N)
                )
                tag = f"{M}x{N}x{D} {str(dtype).removeprefix('torch.')} scale {scale:g}"
                yield from _losses(x, y, scale, tag)
                if scale == 14.0:
                    yield from _rest(x, y, tag)


def _dense(x: Tensor, y: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Row and column log-sum-exp without the diagonal, softplus sums with a flipped one, and gradients of each."""
    x, y = x.to(dtype, copy=True).requires_grad_(), y.to(dtype, copy=True).requires_grad_()
    s = scale * (x @ y.T)
    s = s if dtype == torch.float64 else s.float()
    own = torch.eye(*s.shape, dtype=torch.bool, device=s.device)
    kept = s.masked_fill(own, float("-inf"))
    row, column = kept.logsumexp(1), kept.logsumexp(0)
    biased = s - 10.0
    sigmoid = -F.logsigmoid(torch.where(own, biased, -biased)).sum(1)
    nll = -F.logsigmoid(s.diagonal() - row)
    grads = []
    for total in (row.sum() + column.sum(), sigmoid.sum(), nll.sum()):
        grads += torch.autograd.grad(total, (x, y), retain_graph=True)
    return tuple(part.detach() for part in (row, column, sigmoid, nll, *grads))


def _losses(x: Tensor, y: Tensor, scale: float, tag: str) -> Iterator[Verdict]:
    M, N = len(x), len(y)
    exact, plain, single = (_dense(x, y, scale, dtype) for dtype in (torch.float64, x.dtype, torch.float32))
    if x.dtype == torch.float16:  # gradients are returned in float32, the products have float16's digits
        single = (*single[:4], *plain[4:])
    options = {"scale": scale, "skip_diagonal": True}
    row, column = pair_lse_fwd(x, y, direction="both", **options)
    assert row is not None and column is not None
    yield judge(f"pair_lse row {tag}", row, single[0], exact[0], scale)
    yield judge(f"pair_lse column {tag}", column, single[1], exact[1], scale)
    grads = pair_lse_bwd(
        x, y, row=row, column=column, grad_row=torch.ones_like(row), grad_column=torch.ones_like(column), **options
    )
    sigmoid = pair_softplus_fwd(
        x, y, scale=scale, flip_diagonal=True, x_bias=torch.full((M,), -10.0, device=x.device), wanted=Wanted()
    )
    nll = pair_nll_fwd(x, y, None, link="softplus", wanted=Wanted(), **options)
    assert sigmoid.grads is not None and nll.grads is not None
    yield judge(f"pair_softplus {tag}", sigmoid.rows, single[2], exact[2])
    yield judge(f"pair_nll {tag}", nll.loss, single[3], exact[3], scale)
    for name, found, first in (("pair_lse", grads, 4), ("pair_softplus", sigmoid.grads, 6), ("pair_nll", nll.grads, 8)):
        for side, actual in enumerate((found.x, found.y)):
            assert actual is not None
            actual = actual.to(x.dtype)
            yield judge(f"{name} d{'xy'[side]} {tag}", actual, plain[first + side], exact[first + side])
    above, equal = pair_rank_fwd(x, y, scale=scale)
    s = x.double() @ y.double().T
    near = ((s - s.diagonal()[:, None]).abs() < 1e-4).sum(1)
    wrong = ((above - (s > s.diagonal()[:, None]).sum(1)).abs() > near) | (equal < 1)
    yield Verdict(f"pair_rank {tag}", float(wrong.sum()), 0.0)
    assert N >= M


def _rest(x: Tensor, y: Tensor, tag: str) -> Iterator[Verdict]:
    k = min(10, len(y))
    exact = x.double() @ y.double().T
    plain = x.float() @ y.float().T
    best = pair_topk_fwd(x, y, k)
    yield judge(f"pair_topk {tag}", best.scores, torch.topk(plain, k).values, torch.topk(exact, k).values)
    yield judge(f"pair_topk ids {tag}", best.scores, plain.gather(1, best.ids), exact.gather(1, best.ids))
    stats = pair_stats_fwd(x, y, betas=(20.0,))
    yield judge(f"pair_stats lse {tag}", stats.lse[0], (20 * plain).logsumexp(0), (20 * exact).logsumexp(0), 20.0)
    yield judge(f"pair_stats var {tag}", stats.var, plain.var(0, correction=0), exact.var(0, correction=0), 1.0)

    dims = tuple(sorted({max(1, x.shape[1] // 4), max(1, x.shape[1] // 2), x.shape[1]}))
    outcome = []
    for dtype in (torch.float64, x.dtype, torch.float32):
        a, b = x.to(dtype, copy=True).requires_grad_(), y.to(dtype, copy=True).requires_grad_()
        rows = []
        for d in dims:
            s = 14.0 * (F.normalize(a[:, :d]) @ F.normalize(b[:, :d]).T)
            rows.append((s if dtype == torch.float64 else s.float()).logsumexp(1))
        outcome.append((torch.stack(rows).detach(), *torch.autograd.grad(torch.stack(rows).sum(), (a, b))))
    row, _ = nested_lse_fwd(x, y, dims, scale=14.0)
    assert row is not None
    grads = nested_lse_bwd(x, y, dims, row=row, grad_row=torch.ones_like(row), scale=14.0)
    yield judge(f"nested_lse {tag}", row, outcome[2][0], outcome[0][0], 14.0)
    for side, actual in enumerate((grads.x, grads.y)):
        assert actual is not None
        verdict = judge(f"nested_lse d{'xy'[side]} {tag}", actual, outcome[1][1 + side], outcome[0][1 + side])
        # A score is rounded by two norms here, where plain torch normalises the features of every prefix anew.
        yield Verdict(verdict.name, verdict.error, 1.5 * verdict.allowed)

    outcome = []
    for dtype in (torch.float64, x.dtype):
        a = x.to(dtype, copy=True).requires_grad_()
        s = 14.0 * (a @ a.T)
        s = (s if dtype == torch.float64 else s.float()).masked_fill(
            torch.eye(len(x), dtype=torch.bool, device=x.device), float("-inf")
        )
        lse = s.logsumexp(1)
        outcome.append((lse.detach(), *torch.autograd.grad(lse[torch.isfinite(lse)].sum(), a)))
    if len(x) > 1:
        own = self_lse_fwd(x, scale=14.0, block_rows=max(1, len(x) // 3))
        grad = self_lse_bwd(x, own, torch.ones_like(own), scale=14.0, block_rows=max(1, len(x) // 3)).x
        assert grad is not None
        yield judge(f"self_lse {tag}", own, outcome[1][0], outcome[0][0], 14.0)
        yield judge(f"self_lse dx {tag}", grad.to(x.dtype), outcome[1][1], outcome[0][1])
