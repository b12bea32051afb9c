"""CWCL against its equation, and what it becomes at the ends of its weights."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck
from simtile.functional import cwcl


def drawn(rng, *shapes):
    return [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("two", [False, True], ids=["one-encoder", "two-encoders"])
def test_equals_its_equation(rng, symmetric, reduction, two):
    M, N = 23, 31
    q, k, f, g = drawn(rng, (M, 8), (N, 8), (M if two else N, 5), (N, 5))
    options = {
        "symmetric": symmetric, "reduction": reduction, "weight": torch.from_numpy(rng.uniform(0.5, 2, M)),
        "features": f, "key_features": g if two else None,
    }  # fmt: skip
    assert_equals_dense(
        functools.partial(cwcl, **options), functools.partial(dense.cwcl, **options), [q, k],
        plans=("dense", "recompute", "chunked")[: 2 if symmetric or reduction == "none" else 3],
        rows=1 if reduction == "mean" else M,
    )  # fmt: skip


def test_gradcheck(rng):
    q, k, f = drawn(rng, (4, 3), (5, 3), (5, 2))
    for symmetric in (True, False):
        assert_gradcheck(lambda q, k, s=symmetric, **how: cwcl(q, k, f, symmetric=s, **how), [q, k])


def test_orthogonal_features_weigh_all_others_by_half_and_equal_ones_by_one(rng):
    """w = 1/2 for all others and 1 for the own pair; and w = 1 for all, which pulls towards the mean of all keys."""
    q, k = drawn(rng, (6, 4), (6, 4))
    s = torch.nn.functional.normalize(q) @ torch.nn.functional.normalize(k).T / 0.1
    log_p = torch.log_softmax(s, 1)
    want = -((log_p.sum(1) + log_p.diagonal()) / 2 / 3.5).mean()
    got = cwcl(q, k, torch.eye(6, dtype=torch.float64), temperature=0.1, symmetric=False)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    got = cwcl(q, k, torch.ones(6, 2, dtype=torch.float64), temperature=0.1, symmetric=False)
    torch.testing.assert_close(got, -log_p.mean(), rtol=1e-12, atol=0)


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="features: 3 rows, got 2"):
        cwcl(x, x, torch.ones(2, 2))
