"""Gradients of narrow features in registers, in Triton's interpreter: the checks of the workspace plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import SCALES, SHAPES, Job, job

import test_pair_lse
from accuracy import opposed_row, rounded
from simtile.kernels.accumulate import Wanted
from simtile.kernels.row_grad import narrow_lse_bwd


@pytest.fixture(autouse=True)
def _in_place_of_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_pair_lse, "pair_lse_bwd", narrow_lse_bwd)
    monkeypatch.setattr(test_pair_lse, "EVERYTHING", Wanted(scale=True))


@pytest.mark.parametrize(("M", "N", "D"), SHAPES)
def test_every_shape(M: int, N: int, D: int, rng: np.random.Generator) -> None:
    test_pair_lse.check_backward(job(rng, M, N, D, dtype=torch.bfloat16, scale=14.0))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rule", ["exclude", "only", "diagonal", "bias"])
def test_every_rule(rule: str, scale: float, rng: np.random.Generator) -> None:
    test_pair_lse.check_backward(job(rng, 37, 70, 20, dtype=torch.bfloat16, scale=scale, rules=(rule,)))


@pytest.mark.parametrize("scale", SCALES)
def test_a_row_opposed_to_everything(scale: float, rng: np.random.Generator) -> None:
    x, y = (rounded(part, torch.bfloat16)[0] for part in opposed_row(rng, 40, 37, 24))
    test_pair_lse.check_backward(Job(x, y, {"scale": torch.tensor(scale)}))


@pytest.mark.parametrize("directions", ["row", "column"])
def test_one_direction(directions: str, rng: np.random.Generator) -> None:
    test_pair_lse.check_backward(job(rng, 40, 37, 20, dtype=torch.bfloat16, scale=14.0), directions)


def test_the_own_pair_gets_its_coefficient_on_both_sides(rng: np.random.Generator) -> None:
    given = job(rng, 40, 37, 16, dtype=torch.bfloat16, scale=14.0, rules=("diagonal",))
    zero, own = torch.zeros(40), torch.linspace(-1.0, 1.0, 40)
    row = torch.zeros(40)
    grads = narrow_lse_bwd(given.x, given.y, row=row, grad_row=zero, diagonal=own, **given.options)
    torch.testing.assert_close(grads.x[:37], (14.0 * own[:37, None] * given.y).bfloat16(), rtol=2**-6, atol=0)
    torch.testing.assert_close(grads.y, (14.0 * own[:37, None] * given.x[:37]).bfloat16(), rtol=2**-6, atol=0)
    assert not grads.x[37:].any()
