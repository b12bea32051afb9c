"""Additive and angular margins."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck, drawn
from simtile._losses.margin import lowered
from simtile.functional import info_nce, margin_info_nce


@pytest.mark.parametrize("kind", ["additive", "angular"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_equals_its_equation(rng, kind, symmetric):
    M, N = 19, 24
    q, k = drawn(rng, (M, 6), (N, 6))
    k[:3] = 0.1 * k[:3] - q[:3]  # beyond π with the margin
    options = {"kind": kind, "symmetric": symmetric, "margin": 0.4, "weight": torch.from_numpy(rng.uniform(0.5, 2, M))}
    ids = torch.from_numpy(rng.integers(0, 9, M)), torch.from_numpy(rng.integers(0, 9, N))
    assert_equals_dense(
        functools.partial(margin_info_nce, query_ids=ids[0], key_ids=ids[1], **options),
        functools.partial(dense.margin_info_nce, ids=ids, **options), [q, k],
    )  # fmt: skip


def test_gradcheck(rng):
    for kind in ("additive", "angular"):
        assert_gradcheck(functools.partial(margin_info_nce, kind=kind), drawn(rng, (4, 3), (5, 3)))


def test_no_margin_is_info_nce(rng):
    q, k = drawn(rng, (7, 4), (9, 4))
    for kind in ("additive", "angular"):
        for symmetric in (True, False):
            got = margin_info_nce(q, k, margin=0.0, kind=kind, symmetric=symmetric)
            want = info_nce(q, k, temperature=0.05, symmetric=symmetric)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_an_angle_keeps_costing_more_beyond_pi():
    angle = torch.linspace(0, torch.pi, 50, dtype=torch.float64)
    assert (lowered(angle.cos(), 0.5, "angular").diff() < 0).all()


def test_equal_and_opposite_partners_have_finite_gradients():
    q = torch.eye(4, dtype=torch.float64).requires_grad_()
    for k in (q.detach(), -q.detach()):
        margin_info_nce(q, k, margin=0.5, kind="angular").backward()
        assert torch.isfinite(q.grad).all()


def test_wrong_arguments_are_named():
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match="margin: a number from 0 to below pi, got -1"):
        margin_info_nce(x, x, margin=-1.0)
    with pytest.raises(ValueError, match="kind: one of"):
        margin_info_nce(x, x, kind="cosine")
