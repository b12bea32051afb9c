"""SupCon against its equations: by label and by list, few and many positives, near saturation."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import dense_losses as dense
from accuracy import saturated_pairs
from loss_checks import LargestTensor, assert_equals_dense, assert_gradcheck
from plain_torch import gradients
from simtile._losses import sup_con as module
from simtile.functional import margin_info_nce, nt_xent, sup_con


def equal_pairs(x_ids, y_ids=None):
    """(M, N) which pairs are positives."""
    if y_ids is None:
        return (x_ids[:, None] == x_ids).fill_diagonal_(False)
    return x_ids[:, None] == y_ids


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("many", [False, True], ids=["listed", "by-class"])
def test_equals_its_equation_by_label(rng, form, reduction, many, monkeypatch):
    if many:
        monkeypatch.setattr(module, "LISTED_POSITIVES", 0)
    M = 29
    z, labels = torch.from_numpy(rng.normal(size=(M, 8))), torch.from_numpy(rng.integers(0, 9, M))
    labels[0] = 99  # nobody else's
    options = {"form": form, "reduction": reduction, "weight": torch.from_numpy(rng.uniform(0.5, 2, M))}
    assert_equals_dense(
        functools.partial(sup_con, labels=labels, **options),
        functools.partial(dense.sup_con, positive=equal_pairs(labels), **options),
        [z], plans=("dense", "recompute", "chunked")[: 2 if reduction == "none" else 3],
        rows=1 if reduction == "mean" else M,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("many", [False, True], ids=["listed", "by-class"])
def test_equals_its_equation_with_keys(rng, form, many, monkeypatch):
    if many:
        monkeypatch.setattr(module, "LISTED_POSITIVES", 0)
    z, keys = (torch.from_numpy(rng.normal(size=shape)) for shape in ((17, 8), (40, 8)))
    x_ids, y_ids = torch.from_numpy(rng.integers(0, 9, 17)), torch.from_numpy(rng.integers(0, 9, 40))
    assert_equals_dense(
        lambda z, keys, **how: sup_con(z, x_ids, keys=keys, key_labels=y_ids, form=form, **how),
        lambda z, keys, **how: dense.sup_con(z, equal_pairs(x_ids, y_ids), keys=keys, form=form, **how), [z, keys],
    )  # fmt: skip


@pytest.mark.parametrize("form", ["out", "in"])
def test_a_list_says_the_same_as_labels(rng, form):
    z, labels = torch.from_numpy(rng.normal(size=(25, 8))), torch.from_numpy(rng.integers(0, 9, 25))
    positive = equal_pairs(labels)
    listed = torch.cat([torch.zeros(1, dtype=torch.long), positive.sum(1).cumsum(0)]), positive.nonzero()[:, 1]
    torch.testing.assert_close(sup_con(z, positives=listed, form=form), sup_con(z, labels, form=form))


@pytest.mark.parametrize("kind", ["angular", "additive"])
@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("margin", [0.1, 2.0])
def test_a_margin_lowers_the_positives_scores(rng, kind, form, margin):
    """Captions of images: 3 of each, or none; at 2 radians most angles go on beyond π."""
    images, captions = (torch.from_numpy(rng.normal(size=shape)) for shape in ((9, 6), (24, 6)))
    owner = torch.arange(24) // 3
    how = {"temperature": 1 / 30, "form": form, "margin": margin}
    inputs = [part.requires_grad_() for part in (images, captions)]
    got = sup_con(images, torch.arange(9), keys=captions, key_labels=owner, margin_kind=kind, **how)
    want = dense.sup_con(
        images, equal_pairs(torch.arange(9), owner), keys=captions, additive=kind == "additive", **how
    )  # fmt: skip
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for mine, plain in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-11)


def test_one_caption_each_with_a_margin_is_margin_info_nce(rng):
    a, b = (torch.from_numpy(rng.normal(size=(11, 5))) for _ in range(2))
    ids = torch.arange(11)
    got = sup_con(a, ids, keys=b, key_labels=ids, margin=0.3, temperature=0.1)
    want = margin_info_nce(a, b, margin=0.3, kind="angular", temperature=0.1, symmetric=False)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="margin: 0 unless rows are normalised"):
        sup_con(a, ids, keys=b, key_labels=ids, margin=0.3, normalize=False)
    with pytest.raises(ValueError, match="margin: a number from 0 to below pi"):
        sup_con(a, ids, keys=b, key_labels=ids, margin=4.0)


def test_gradcheck(rng, monkeypatch):
    z, labels = torch.from_numpy(rng.normal(size=(6, 3))), torch.tensor([0, 1, 0, 1, 2, 1])
    for form in ("out", "in"):
        assert_gradcheck(lambda z, form=form, **how: sup_con(z, labels, form=form, **how), [z])
        monkeypatch.setattr(module, "LISTED_POSITIVES", 0)


@pytest.mark.parametrize("kind", ["angular", "additive"])
def test_gradcheck_with_a_margin(rng, kind):
    """Class vectors, and captions of which an image has two."""
    x, keys = (torch.from_numpy(rng.normal(size=shape)) for shape in ((4, 3), (6, 3)))
    labels, owners = torch.arange(4), torch.tensor([0, 0, 1, 1, 2, 5])
    for form in ("out", "in"):
        how = {"key_labels": owners, "form": form, "margin": 0.3, "margin_kind": kind}
        assert_gradcheck(lambda x, y, how=how, **more: sup_con(x, labels, keys=y, **how, **more), [x, keys])


def test_with_a_margin_no_matrix_of_all_pairs_is_made():
    """2,048 images and 4,096 captions: 8M scores, against 64 numbers a caption."""
    generator = torch.Generator().manual_seed(0)
    x, keys = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (2048, 4096))
    labels, owners = torch.arange(2048), torch.arange(4096) // 2
    with LargestTensor() as largest:
        sup_con(x, labels, keys=keys, key_labels=owners, margin=0.1, plan="recompute").backward()
    assert 0 < largest.elements <= 64 * 4096


@pytest.mark.parametrize("form", ["out", "in"])
def test_pairs_as_classes_are_nt_xent(rng, form):
    """One positive each: both forms are the loss of SimCLR."""
    a, b = (torch.from_numpy(rng.normal(size=(11, 5))) for _ in range(2))
    ids = torch.arange(11)
    got = sup_con(torch.cat([a, b]), torch.cat([ids, ids]), form=form)
    torch.testing.assert_close(got, nt_xent(a, b, labels=ids), rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["out", "in"])
def test_float32_gradients_keep_their_digits_when_all_positives_are_found(rng, form):
    """At a loss of 1e-8 the coefficient p - 1/|P| of plain float32 holds nothing but rounding."""
    a, b = saturated_pairs(rng, 40, 64)
    z = torch.from_numpy(np.concatenate([a, b])).float()
    labels = torch.arange(40).repeat(2)

    def run(function, z, *rest):
        z = z.clone().requires_grad_()
        loss = function(z, *rest, temperature=0.03, form=form)
        return loss.detach(), gradients(loss, [z])[0]

    loss, exact = run(dense.sup_con, z.double(), equal_pairs(labels))
    mine, got = run(sup_con, z, labels)
    assert 1e-12 < loss < 1e-5
    assert float((got.double() - exact).norm() / exact.norm()) < 1e-4
    torch.testing.assert_close(mine.double(), loss, rtol=1e-4, atol=0)


def test_an_anchor_without_positives_or_negatives_adds_nothing(rng):
    z = torch.from_numpy(rng.normal(size=(4, 3))).requires_grad_()
    for form in ("out", "in"):
        assert sup_con(z, torch.arange(4), form=form) == 0
        assert torch.isfinite(sup_con(z, torch.zeros(4, dtype=torch.long), form=form))
        (grad,) = gradients(sup_con(z, torch.tensor([0, 1, 1, 2]), form=form, reduction="none")[[0, 3]].sum(), [z])
        assert not grad.any()


def test_wrong_arguments_are_named():
    x, labels = torch.ones(3, 2), torch.arange(3)
    listed = torch.zeros(4, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    for wrong, message in (
        ({"labels": None}, "labels: needed unless positives are given"),
        ({"positives": listed}, "positives: given instead of labels, got both"),
        ({"keys": x}, "key_labels: needed together with keys"),
        ({"key_labels": labels}, "key_labels: needed together with keys"),
        ({"form": "both"}, "form: one of"),
        ({"keys": torch.ones(3, 4), "key_labels": labels}, "keys: as many columns as embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            sup_con(**{"embeddings": x, "labels": labels, **wrong})
