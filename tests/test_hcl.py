"""Debiased and hard negatives."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck, drawn
from simtile.functional import hcl, nt_xent


@pytest.mark.parametrize(("tau_plus", "beta"), [(0.1, 1.0), (0.1, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_equals_its_equation(rng, tau_plus, beta, reduction):
    B = 19
    a, b = drawn(rng, (B, 6), (B, 6))
    b[:4] = a[:4]  # their positive is so similar that the floor under the negatives is reached
    options = {
        "reduction": reduction, "tau_plus": tau_plus, "beta": beta,
        "weight": torch.from_numpy(rng.uniform(0.5, 2, B)),
    }  # fmt: skip
    assert_equals_dense(
        functools.partial(hcl, **options), functools.partial(dense.hcl, **options), [a, b], temperature=0.25,
        rows=1 if reduction == "mean" else B,
    )  # fmt: skip


def test_gradcheck(rng):
    a, b = drawn(rng, (5, 3), (5, 3))
    for tau_plus, beta in ((0.1, 1.0), (0.05, 0.0)):
        assert_gradcheck(functools.partial(hcl, tau_plus=tau_plus, beta=beta), [a, b])


def test_without_either_it_is_nt_xent(rng):
    a, b = drawn(rng, (7, 4), (7, 4))
    got = hcl(a, b, tau_plus=0.0, beta=0.0, temperature=0.3)
    torch.testing.assert_close(got, nt_xent(a, b, temperature=0.3), rtol=1e-12, atol=0)


def test_no_temperature_overflows(rng):
    a, b = (part.float() for part in drawn(rng, (9, 6), (9, 6)))
    assert torch.isfinite(hcl(a, b, temperature=0.003, beta=2.0))


def test_wrong_arguments_are_named():
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match="tau_plus: a number from 0 to below 1, got 1"):
        hcl(x, x, tau_plus=1.0)
    with pytest.raises(ValueError, match="beta: a finite number of at least 0, got -1"):
        hcl(x, x, beta=-1.0)
