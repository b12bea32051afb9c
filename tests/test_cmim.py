"""cMIM's contrastive term."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck, drawn
from simtile.functional import cmim, info_nce


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_its_equation(rng, reduction):
    M, N = 17, 22
    q, k = drawn(rng, (M, 6), (N, 6))
    options = {"reduction": reduction, "weight": torch.from_numpy(rng.uniform(0.5, 2, M))}
    assert_equals_dense(
        functools.partial(cmim, **options), functools.partial(dense.cmim, **options), [q, k],
        plans=("dense", "recompute", "chunked")[: 2 if reduction == "none" else 3],
        rows=1 if reduction == "mean" else M,
    )  # fmt: skip


def test_gradcheck(rng):
    assert_gradcheck(cmim, drawn(rng, (4, 3), (5, 3)))


def test_with_constant_negatives_the_batch_size_does_not_matter():
    """Orthogonal rows: every negative has similarity 0, every pair 1. InfoNCE grows with log B instead."""
    want = math.log1p(math.exp(-1 / 0.1))
    for B in (2, 7, 40):
        x = torch.eye(B, dtype=torch.float64)
        assert cmim(x, x).item() == pytest.approx(want, rel=1e-12)
        grown = info_nce(x, x, temperature=0.1).item()
        assert grown == pytest.approx(math.log1p((B - 1) * math.exp(-1 / 0.1)), rel=1e-12)


def test_one_pair_has_no_negatives_and_no_loss():
    x = torch.ones(1, 3, requires_grad=True)
    loss = cmim(x, x)
    loss.backward()
    assert loss == 0 and not x.grad.any()
