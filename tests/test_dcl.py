"""DCL and DCLW."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck, drawn
from simtile.functional import dcl, nt_xent


@pytest.mark.parametrize("sigma", [None, 0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_its_equation(rng, sigma, reduction):
    B = 19
    a, b = drawn(rng, (B, 6), (B, 6))
    options = {"reduction": reduction, "sigma": sigma, "weight": torch.from_numpy(rng.uniform(0.5, 2, B))}
    assert_equals_dense(
        functools.partial(dcl, **options), functools.partial(dense.dcl, **options), [a, b],
        plans=("dense", "recompute", "chunked")[: 2 if reduction == "none" else 3],
        rows=1 if reduction == "mean" else B,
    )  # fmt: skip


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_gradcheck(rng, sigma):
    assert_gradcheck(functools.partial(dcl, sigma=sigma), drawn(rng, (4, 3), (4, 3)))


@pytest.mark.filterwarnings("ignore:To copy construct")  # lightly wraps its own tensor
@pytest.mark.parametrize("sigma", [None, 0.5])
def test_equals_lightly(rng, sigma):
    losses = pytest.importorskip("lightly.loss")
    a, b = drawn(rng, (12, 5), (12, 5))
    theirs = losses.DCLLoss(temperature=0.1) if sigma is None else losses.DCLWLoss(temperature=0.1, sigma=sigma)
    torch.testing.assert_close(dcl(a, b, sigma=sigma), theirs(a, b), rtol=1e-10, atol=0)


def test_nt_xent_is_its_softplus(rng):
    """-log(p / (p + n)) = softplus(log n - log p)."""
    a, b = drawn(rng, (1, 5), (1, 5))
    assert dcl(a, b) == 0 == nt_xent(a, b)
    a, b = drawn(rng, (6, 5), (6, 5))
    assert dcl(a, b) < nt_xent(a, b)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="sigma: above 0 or None, got 0"):
        dcl(torch.ones(2, 2), torch.ones(2, 2), sigma=0)
