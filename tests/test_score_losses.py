"""Losses of scores that are given: dense InfoNCE, SoftREPA, margin-MSE."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from accuracy import assert_as_accurate
from loss_checks import drawn
from plain_torch import gradients
from simtile.functional import info_nce, margin_mse, score_info_nce, soft_repa
from simtile.losses import SoftREPALoss


def test_it_is_cross_entropy(rng):
    (scores,) = drawn(rng, (7, 11))
    scores.requires_grad_()
    targets = torch.from_numpy(rng.integers(0, 11, 7))
    for given, wanted in ((targets, targets), (None, torch.arange(7))):
        found = score_info_nce(scores, targets=given, temperature=0.3, reduction="none")
        want = cross_entropy(scores / 0.3, wanted, reduction="none")
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients(found.sum(), [scores]), gradients(want.sum(), [scores]))


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_is_info_nce_of_the_scores_that_info_nce_does_not_store(rng, symmetric):
    q, k = drawn(rng, (6, 4), (9, 4))
    weight = torch.linspace(0, 2, 6, dtype=torch.float64)
    want = info_nce(q, k, temperature=0.1, symmetric=symmetric, weight=weight)
    found = score_info_nce(normalize(q) @ normalize(k).T, temperature=0.1, symmetric=symmetric, weight=weight)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


def test_it_keeps_its_digits_near_saturation():
    """Loss 1e-9: cross_entropy in float32 gives 0."""
    scores = torch.full((4, 4), -20.72).fill_diagonal_(0.0).requires_grad_()
    exact = 3 * torch.tensor(-20.72).double().exp()
    loss = score_info_nce(scores)
    assert_as_accurate(loss.detach(), exact.float(), exact.numpy(), floor=64)
    (by_scores,) = gradients(loss, [scores])
    assert_as_accurate(by_scores.diagonal(), -exact.float().expand(4) / 4, (-exact / 4).expand(4).numpy(), floor=64)


def test_pairs_of_minus_infinity_are_left_out(rng):
    (scores,) = drawn(rng, (3, 5))
    few = scores.clone()
    few[:, 3:] = -torch.inf
    few.requires_grad_()
    found = score_info_nce(few)
    torch.testing.assert_close(found, score_info_nce(scores[:, :3]), rtol=1e-13, atol=0)
    assert torch.isfinite(gradients(found, [few])[0]).all()
    alone = torch.tensor([[2.0, -torch.inf]], requires_grad=True)
    assert score_info_nce(alone) == 0 and torch.isfinite(gradients(score_info_nce(alone), [alone])[0]).all()


def test_soft_repa_is_the_authors_cross_entropy_and_learns_its_scale(rng):
    errors = torch.from_numpy(rng.uniform(0, 0.5, (6, 6))).requires_grad_()
    want = cross_entropy(4 * torch.exp(-errors / 0.07), torch.eye(6).double()) + 0.1 * errors.diagonal().mean()
    found = soft_repa(errors, error_weight=0.1)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, [errors]), gradients(want, [errors]))
    several, targets = errors[:, :4], torch.tensor([0, 1, 3, 3, 2, 0])
    want = cross_entropy(4 * torch.exp(-several / 0.07), targets) + 0.1 * several[torch.arange(6), targets].mean()
    torch.testing.assert_close(soft_repa(several, targets=targets, error_weight=0.1), want, rtol=1e-12, atol=0)
    module = SoftREPALoss(error_weight=0.1).double()
    torch.testing.assert_close(module(errors), found, rtol=1e-6, atol=0)
    module(errors).backward()
    assert module.temperature.grad != 0 and module.scale.grad != 0
    assert [name for name, _ in SoftREPALoss(learn=False).named_parameters()] == []


@pytest.mark.parametrize("cosine", [False, True])
def test_margin_mse_is_its_equation(rng, cosine):
    q, p, n, margin = drawn(rng, (5, 4), (5, 4), (5, 3, 4), (5, 3))
    inputs = [part.requires_grad_() for part in (q, p, n)]
    a, b, c = (normalize(part, dim=-1) if cosine else part for part in inputs)
    student = 2.0 * ((a * b).sum(1)[:, None] - torch.einsum("md,mkd->mk", a, c))
    want = ((student - margin) ** 2).mean()
    found = margin_mse(q, p, n, margin, scale=2.0, normalize=cosine)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, inputs), gradients(want, inputs), rtol=1e-10, atol=1e-12)
    assert margin_mse(q, p, n, student.detach(), scale=2.0, normalize=cosine) < 1e-20


def test_gradchecks(rng):
    scores, q, n, margin = drawn(rng, (4, 5), (3, 2), (3, 2, 2), (3, 2))
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda s, t: score_info_nce(s, temperature=t, symmetric=True), [scores.requires_grad_(), scale])
    assert check(lambda s, t: soft_repa(s.square(), temperature=t, scale=2 * t), [scores, scale])
    assert check(
        lambda q, n, t: margin_mse(q, q.flip(0), n, margin, scale=t), [q.requires_grad_(), n.requires_grad_(), scale]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_float32_losses(rng, dtype):
    (scores,) = drawn(rng, (4, 4))
    scores = scores.to(dtype).requires_grad_()
    losses = (
        score_info_nce(scores), soft_repa(scores.square()),
        margin_mse(scores, scores.flip(0), scores[:, None], torch.ones(4, 1)),
    )  # fmt: skip
    for loss in losses:
        (by_scores,) = gradients(loss, [scores])
        assert loss.dtype == torch.float32 and by_scores.dtype == dtype and torch.isfinite(by_scores).all()


def test_wrong_arguments_are_named():
    s = torch.ones(3, 2)
    for call, message in (
        (lambda: score_info_nce(s), "scores: at least as many columns as rows, 3, unless targets are given; got 2"),
        (lambda: score_info_nce(s, targets=torch.zeros(3).long(), symmetric=True), "symmetric: pairs column i"),
        (lambda: soft_repa(s.T, temperature=-1.0), "temperature: a finite number above 0"),
        (lambda: margin_mse(s, s[:2], s[:, None], s), "positive: as many rows as query, 3, got 2"),
        (lambda: margin_mse(s, s, s, s), r"negatives: a Tensor \(M, K, D\) with M, D = \(3, 2\), got \(3, 2\)"),
        (lambda: margin_mse(s, s, s[:, None], s), r"teacher_margin: a Tensor \(3, 1\), got \(3, 2\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
