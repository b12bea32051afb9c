"""clip-rocket's losses against the authors' forms, and the self-supervised ones they borrow."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import LargestTensor, assert_equals_dense, assert_gradcheck, drawn
from plain_torch import gradients
from simtile.functional import distillation_loss, info_nce
from simtile.losses import BarlowTwinsLoss, MultiCropInfoNCELoss, SiameseLoss, SwALIPLoss, momentum_update
from simtile.self_supervised import barlow_twins, multi_crop_info_nce, siamese_loss, swalip


@pytest.mark.parametrize("crops", [0, 1, 2])
def test_multi_crop_info_nce_equals_the_authors_form(rng, crops):
    inputs = drawn(rng, *[(9, 5)] * (2 + 2 * crops))

    def mine(q, k, *rest, **how):
        return multi_crop_info_nce(q, k, rest[:crops], rest[crops:], **how)

    assert_equals_dense(mine, dense.clip_rocket, inputs)
    if crops == 1:
        assert_gradcheck(mine, [part[:4] for part in inputs])


def test_multi_crop_without_crops_is_clip_and_its_terms_are_rows(rng):
    q, k, a, b = drawn(rng, *[(6, 4)] * 4)
    torch.testing.assert_close(multi_crop_info_nce(q, k, [], []), info_nce(q, k, symmetric=True), rtol=1e-14, atol=0)
    rows = multi_crop_info_nce(q, k, [a], [b], reduction="none")
    torch.testing.assert_close(rows.mean(), multi_crop_info_nce(q, k, [a], [b]), rtol=1e-14, atol=0)


def test_the_module_learns_two_temperatures(rng):
    q, k, a, b = (part.requires_grad_() for part in drawn(rng, *[(6, 4)] * 4))
    loss = MultiCropInfoNCELoss(learn_temperature=True)
    value = loss(q, k, [a], [b])
    torch.testing.assert_close(value, multi_crop_info_nce(q, k, [a], [b]), rtol=1e-6, atol=0)
    value.backward()
    assert loss.log_scale.grad != 0 and loss.log_crop_scale.grad != 0
    assert MultiCropInfoNCELoss()(q, k, [a], [b]) == multi_crop_info_nce(q, k, [a], [b])


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_balanced_teacher_equals_its_equation(rng, symmetric):
    q, k, p, r = drawn(rng, *[(14, 6)] * 4)
    options = {"teacher_temperature": 0.1, "sinkhorn_iterations": 3, "symmetric": symmetric}
    assert_equals_dense(
        lambda q, k, **how: distillation_loss(q, k, p.to(q.dtype), r.to(q.dtype), **options, **how),
        lambda q, k, **how: dense.distillation_loss(q, k, p.to(q.dtype), r.to(q.dtype), **options, **how),
        [q, k], plans=("auto", "recompute"),
    )  # fmt: skip


def test_swalip_predicts_each_pair_of_crops_from_the_other_pair(rng):
    a0, a1, b0, b1 = drawn(rng, *[(10, 5)] * 4)
    term = functools.partial(
        dense.distillation_loss, temperature=0.1, teacher_temperature=0.05, sinkhorn_iterations=3
    )  # fmt: skip
    want = (term(a0, b0, a1, b1) + term(a0, b1, a1, b0) + term(a1, b0, a0, b1) + term(a1, b1, a0, b0)) / 4
    for plan in ("dense", "recompute"):
        torch.testing.assert_close(swalip([a0, a1], [b0, b1], plan=plan), want, rtol=1e-11, atol=0)
    assert SwALIPLoss()([a0, a1], [b0, b1]) == swalip([a0, a1], [b0, b1])
    # An assignment is a constant: the gradient is that of the dense terms with teachers cut off.
    crops = [part.clone().requires_grad_() for part in (a0, a1, b0, b1)]
    x0, x1, y0, y1 = crops
    c0, c1, e0, e1 = (part.detach() for part in crops)
    want = (term(x0, y0, c1, e1) + term(x0, y1, c1, e0) + term(x1, y0, c0, e1) + term(x1, y1, c0, e0)) / 4
    exact = gradients(want, crops)
    for plan in ("dense", "recompute"):
        found = gradients(swalip([x0, x1], [y0, y1], plan=plan), crops)
        for got, truth in zip(found, exact, strict=True):
            torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradcheck_under_a_balanced_teacher(rng, symmetric):
    """The term that swalip is the mean of; its own teachers are its students, cut off, which differences cannot see."""
    q, k, p, r = drawn(rng, (5, 3), (5, 3), (5, 3), (5, 3))
    how = {"teacher_temperature": 0.5, "sinkhorn_iterations": 3, "symmetric": symmetric}
    assert_gradcheck(lambda q, k, **more: distillation_loss(q, k, p, r, **how, **more), [q, k])


def test_multi_crop_info_nce_stores_no_scores(rng):
    crops = [part.float().requires_grad_() for part in drawn(rng, *[(2048, 8)] * 4)]
    with LargestTensor() as largest:
        multi_crop_info_nce(crops[0], crops[1], crops[2:3], crops[3:], plan="recompute").backward()
    assert 0 < largest.elements <= 64 * 2048


def test_swalip_stores_no_scores(rng):
    crops = [part.float().requires_grad_() for part in drawn(rng, *[(3000, 4)] * 4)]
    with LargestTensor() as largest:
        swalip(crops[:2], crops[2:], plan="recompute").backward()
    assert largest.elements <= 3000**2 / 2


def test_siamese_loss_stops_the_targets_gradient(rng):
    p, v = (part.requires_grad_() for part in drawn(rng, (7, 4), (7, 4)))
    loss = siamese_loss(p, v)
    cosine = torch.nn.functional.cosine_similarity(p, v)
    torch.testing.assert_close(loss, (2 - 2 * cosine).mean(), rtol=1e-14, atol=0)
    loss.backward()
    assert v.grad is None and p.grad.abs().max() > 0
    assert torch.autograd.gradcheck(lambda p: siamese_loss(p, v), [p])
    assert siamese_loss(p, 3 * p.detach()).abs() < 1e-15
    assert torch.equal(SiameseLoss(reduction="sum")(p, v), siamese_loss(p, v, reduction="none").sum())


def test_byol_is_the_siamese_loss_of_a_follower(rng):
    """A follower that moves towards its leader has targets that do: BYOL's other half is :func:`momentum_update`."""
    torch.manual_seed(0)
    leader, follower = torch.nn.Linear(4, 3).double(), torch.nn.Linear(4, 3).double()
    (x,) = drawn(rng, (8, 4))
    far = siamese_loss(leader(x), follower(x))
    for _ in range(50):
        momentum_update(follower, leader, 0.9)
    assert siamese_loss(leader(x), follower(x)) < 1e-3 * far


@pytest.mark.parametrize("shape", [(2, 1), (12, 5), (5, 12)], ids=["tiny", "tall", "wide"])
def test_barlow_twins_equals_the_authors_form(rng, shape):
    a, b = drawn(rng, shape, shape)
    inputs = [part.requires_grad_() for part in (a, b)]
    got, want = barlow_twins(*inputs), dense.barlow_twins(*inputs)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    for mine, plain in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(barlow_twins, inputs)
    assert torch.equal(BarlowTwinsLoss(scale=0.025)(a, b), barlow_twins(a, b, scale=0.025))


def test_barlow_twins_of_whitened_views_is_zero_and_of_equal_coordinates_is_not(rng):
    (z,) = drawn(rng, (40, 6))
    white = torch.linalg.qr(z - z.mean(0)).Q * 40**0.5
    assert barlow_twins(white, white, standardize=False) < 1e-24
    assert barlow_twins(white, white) < 1e-8  # NORM_EPSILON
    collapsed = white[:, :1].expand(-1, 6)
    torch.testing.assert_close(barlow_twins(collapsed, collapsed).item(), 5e-3 * 30, rtol=1e-4, atol=0)


def test_barlow_twins_stores_no_correlations(rng):
    """4,096 coordinates: 16.8M correlations, against chunks of 16 MiB."""
    a, b = (part.float().requires_grad_() for part in drawn(rng, (4, 4096), (4, 4096)))
    with LargestTensor() as largest:
        barlow_twins(a, b).backward()
    assert 0 < largest.elements <= 4_200_000


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_hardly_any_rows_are_finite(rows):
    a, b = (torch.ones(rows, 3, requires_grad=True) for _ in range(2))
    for loss in (
        barlow_twins(a, b), siamese_loss(a, b), swalip([a, b], [b, a]), multi_crop_info_nce(a, b, [a], [b])
    ):  # fmt: skip
        assert torch.isfinite(loss)
        assert all(torch.isfinite(part).all() for part in gradients(loss, [a]))


def test_wrong_arguments_are_named():
    x, y = torch.ones(3, 2), torch.ones(4, 2)
    with pytest.raises(ValueError, match="key_crops: as many as query_crops, 1, got 0"):
        multi_crop_info_nce(x, x, [x], [])
    with pytest.raises(ValueError, match="key_crops: 2 tensors"):
        swalip([x, x], [x])
    with pytest.raises(ValueError, match="target: as many rows as prediction, 3, got 4"):
        siamese_loss(x, y)
    with pytest.raises(ValueError, match="redundancy: at least 0"):
        barlow_twins(x, x, redundancy=-1.0)
    with pytest.raises(ValueError, match="sinkhorn_iterations: at least 0"):
        distillation_loss(x, x, x, x, sinkhorn_iterations=-1)
