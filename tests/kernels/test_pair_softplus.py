"""Sums of softplus and their gradient, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from jobs import DTYPES, SCALES, SHAPES, Dense, Job, dense_gradients, job, sum_floor
from torch import Tensor

from accuracy import assert_as_accurate, opposed_row, rounded
from simtile.kernels import reference_torch
from simtile.kernels.accumulate import Wanted
from simtile.kernels.pair_softplus import log1p_unit, pair_softplus_fwd

EVERYTHING = Wanted(True, True, True, True, True)


def check(given: Job, **execution: object) -> None:
    M = len(given.x)
    weight = torch.linspace(0.5, 1.5, M) / M

    def rows(dense: Dense) -> Tensor:
        s = dense.scores
        return reference_torch.softplus(s).masked_fill(torch.isneginf(s), 0.0).sum(1)

    result = pair_softplus_fwd(given.x, given.y, weight=weight, wanted=EVERYTHING, **given.options, **execution)
    alone = pair_softplus_fwd(given.x, given.y, **given.options)
    assert alone.grads is None
    exact, plain = Dense(given, torch.float64), Dense(Job(given.x.float(), given.y.float(), given.options))
    for actual in (result.rows, alone.rows):
        assert_as_accurate(actual, rows(plain), rows(exact).detach().numpy())
    truth, naive = dense_gradients(given, lambda dense: (rows(dense) * weight.to(dense.scores.dtype)).sum())
    assert result.grads is not None
    for name, actual, bar, exactly in zip(result.grads._fields, result.grads, naive, truth, strict=True):
        magnitude = None
        if name not in ("x", "y"):  # sums of coefficients of both signs, stored in the inputs' type
            actual = actual.to(given.x.dtype)
            magnitude = max(1.0, float(np.abs(exactly).max()))
        assert_as_accurate(actual, bar, exactly, magnitude=magnitude, floor=sum_floor(M, len(given.y)))


@triton.jit
def _log1p_kernel(u, out, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + at, log1p_unit(tl.load(u + at)))


def test_the_polynomial_keeps_relative_accuracy() -> None:
    u = torch.cat([torch.linspace(0, 1, 4096), torch.logspace(-30, 0, 4096)])
    out = torch.empty_like(u)
    _log1p_kernel[(8,)](u, out, SIZE=1024)
    exact = torch.log1p(u.double())
    assert ((out.double() - exact).abs() <= 3e-7 * exact).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "N", "D"), SHAPES)
def test_every_shape(M: int, N: int, D: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    given = job(rng, M, N, D, dtype=dtype, scale=10.0)
    check(Job(given.x, given.y, {**given.options, "x_bias": torch.full((M,), -10.0), "flip_diagonal": True}))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("positives", ["diagonal", "ids", "both"])
def test_positives_flip_their_sign(positives: str, scale: float, rng: np.random.Generator) -> None:
    given = job(rng, 37, 70, 20, scale=scale, rules=("bias", "exclude"))
    options = {**given.options, "ids_mode": "flip", "flip_diagonal": positives != "ids"}
    if positives == "diagonal":
        options.pop("x_ids"), options.pop("y_ids"), options.pop("ids_mode")
    check(Job(given.x, given.y, options))


@pytest.mark.parametrize("rule", ["exclude", "only", "lists", "diagonal", "threshold"])
def test_every_rule(rule: str, rng: np.random.Generator) -> None:
    check(job(rng, 37, 70, 20, scale=14.0, rules=(rule,)))


@pytest.mark.parametrize("scale", SCALES)
def test_a_row_opposed_to_everything(scale: float, rng: np.random.Generator) -> None:
    x, y = (rounded(part, torch.float32)[0] for part in opposed_row(rng, 37, 40, 24))
    check(Job(x, y, {"scale": torch.tensor(scale), "flip_diagonal": True}))


def test_blocks_add_up(rng: np.random.Generator) -> None:
    given = job(rng, 50, 70, 12, scale=14.0, rules=("lists", "bias"))
    check(Job(given.x, given.y, {**given.options, "flip_diagonal": True}), workspace_bytes=2000)


def test_tiny_terms_are_not_lost(rng: np.random.Generator) -> None:
    """Under a bias of -18 each term is 1.5e-8: log(1 + u) in float32 would be 0."""
    given = job(rng, 40, 60, 8, scale=1.0)
    options = {**given.options, "x_bias": torch.full((40,), -18.0)}
    rows = pair_softplus_fwd(given.x, given.y, **options).rows
    exact = torch.nn.functional.softplus(Dense(Job(given.x, given.y, options), torch.float64).scores).sum(1)
    torch.testing.assert_close(rows.double(), exact.detach(), rtol=3e-6, atol=0)
