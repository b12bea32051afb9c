"""Focal InfoNCE and its mixed hard negatives."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck, drawn
from simtile.functional import focal_info_nce, info_nce, list_mixing, pair_mixing


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_equals_its_equation(rng, gamma, reduction):
    M, N = 15, 21
    q, k = drawn(rng, (M, 6), (N, 6))
    options = {"gamma": gamma, "reduction": reduction, "weight": torch.from_numpy(rng.uniform(0.5, 2, M))}
    assert_equals_dense(
        functools.partial(focal_info_nce, **options), functools.partial(dense.focal_info_nce, **options), [q, k],
        rows=1 if reduction == "mean" else M,
    )  # fmt: skip


def test_mixing_in_score_space_equals_mixing_vectors(rng):
    q, k, hard = drawn(rng, (9, 6), (9, 6), (9, 4, 6))
    generator = torch.Generator().manual_seed(3)
    mixing = torch.cat([pair_mixing(9, 4, 5, generator=generator), list_mixing(q.float(), hard.float())], 1)
    assert mixing.shape == (9, 6, 4)
    inputs = [part.requires_grad_() for part in (q, k, hard)]
    got = focal_info_nce(q, k, row_negatives=hard, mixing=mixing, temperature=0.1)
    want = dense.focal_info_nce(q, k, hard, mixing=mixing, temperature=0.1)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    found, truth = (torch.autograd.grad(loss, inputs) for loss in (got, want))
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


def test_gradcheck(rng):
    q, k, hard = drawn(rng, (4, 3), (5, 3), (4, 2, 3))
    mixing = torch.rand(4, 2, 2).double()
    assert_gradcheck(
        lambda q, k, hard, **how: focal_info_nce(q, k, row_negatives=hard, mixing=mixing, gamma=1.5, **how),
        [q, k, hard],
    )


def test_gamma_zero_is_info_nce(rng):
    q, k, hard = drawn(rng, (7, 4), (9, 4), (7, 3, 4))
    got = focal_info_nce(q, k, gamma=0.0, row_negatives=hard, temperature=0.1)
    torch.testing.assert_close(got, info_nce(q, k, row_negatives=hard, temperature=0.1), rtol=1e-12, atol=0)


def test_easy_pairs_count_less_than_hard_ones(rng):
    """Relative to InfoNCE, by (1 - p)^γ."""
    q, k = drawn(rng, (30, 8), (30, 8))
    nll = info_nce(q, k, temperature=0.1, reduction="none")
    focal = focal_info_nce(q, k, gamma=2.0, temperature=0.1, reduction="none")
    torch.testing.assert_close(focal / nll, (1 - (-nll).exp()) ** 2, rtol=1e-10, atol=0)


def test_float32_keeps_its_digits_when_pairs_are_found():
    """1 - p of a float32 p near 1 is 0; the weight is its logarithm's exponential instead."""
    x = torch.eye(6, requires_grad=True)
    loss = focal_info_nce(x, x, gamma=1.0, temperature=0.04)
    y = torch.eye(6, dtype=torch.float64)
    exact = info_nce(y, y, temperature=0.04) ** 2
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


def test_one_pair_alone_has_no_loss():
    x = torch.ones(1, 3, requires_grad=True)
    loss = focal_info_nce(x, x)
    loss.backward()
    assert loss == 0 and not x.grad.any()


def test_pair_mixing_mixes_two():
    weights = pair_mixing(50, 4, 3, generator=torch.Generator().manual_seed(0))
    assert ((weights > 0).sum(-1) == 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(50, 3))
    again = pair_mixing(50, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weights, again)


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    for wrong, message in (
        ({"gamma": -1.0}, "gamma: a finite number of at least 0"),
        ({"mixing": torch.ones(3, 1, 2)}, "row_negatives: needed together with mixing"),
        ({"row_negatives": torch.ones(2, 2, 2)}, r"row_negatives: a Tensor \(M, K, D\) with M = 3"),
        ({"row_negatives": torch.ones(3, 2, 2), "mixing": torch.ones(3, 1, 5)}, r"mixing: shape \(3, S, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            focal_info_nce(x, x, **wrong)
    with pytest.raises(ValueError, match="negatives: at least 2 to mix, got 1"):
        pair_mixing(3, 1, 1)
