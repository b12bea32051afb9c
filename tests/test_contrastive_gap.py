"""Alignment, uniformity and the contrastive-gap loss."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck, drawn
from simtile.functional import alignment, contrastive_gap_loss, info_nce, uniformity


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_its_equation(rng, reduction):
    B = 21
    q, k = drawn(rng, (B, 6), (B, 6))
    options = {"reduction": reduction, "weight": torch.from_numpy(rng.uniform(0.5, 2, B)), "align": 0.7}
    assert_equals_dense(
        functools.partial(contrastive_gap_loss, **options), functools.partial(dense.contrastive_gap_loss, **options),
        [q, k], rows=1 if reduction == "mean" else B,
    )  # fmt: skip


def test_gradcheck(rng):
    assert_gradcheck(contrastive_gap_loss, drawn(rng, (4, 3), (4, 3)))


def test_cross_uniformity_takes_any_two_sizes(rng):
    x, y = drawn(rng, (5, 4), (9, 4))
    for plan in ("auto", "recompute"):
        torch.testing.assert_close(uniformity(x, y, plan=plan), dense.uniformity(x, y), rtol=1e-12, atol=0)
        torch.testing.assert_close(uniformity(y, x, t=3.0, plan=plan), dense.uniformity(y, x, 3.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_uniformity_of_a_simplex(n):
    """The n corners of a regular simplex are 2n / (n - 1) apart, squared."""
    corners = torch.eye(n, dtype=torch.float64) - 1 / n
    want = torch.tensor(-2 * 2 * n / (n - 1), dtype=torch.float64)
    torch.testing.assert_close(uniformity(corners), want, rtol=1e-12, atol=0)


def test_a_collapsed_batch_is_perfectly_aligned_and_least_uniform():
    x = torch.ones(5, 3, dtype=torch.float64)
    assert alignment(x, x) == 0
    assert abs(uniformity(x)) < 1e-12
    assert uniformity(x[:1]) == 0


def test_alignment_keeps_its_digits_where_partners_are_close(rng):
    (x,) = drawn(rng, (30, 8))
    y = x + 1e-4 * torch.from_numpy(rng.normal(size=(30, 8)))
    exact = alignment(x.float().double(), y.float().double())
    torch.testing.assert_close(alignment(x.float(), y.float()).double(), exact, rtol=1e-3, atol=0)


def test_without_its_terms_it_is_clip(rng):
    q, k = drawn(rng, (6, 4), (6, 4))
    bare = contrastive_gap_loss(q, k, align=0, uniform=0, cross_uniform=0)
    torch.testing.assert_close(bare, info_nce(q, k, symmetric=True), rtol=1e-12, atol=0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="key: as many rows as query, 3, got 4"):
        contrastive_gap_loss(torch.ones(3, 2), torch.ones(4, 2))
