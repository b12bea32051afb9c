"""MCLRec's contrast with learnt augmentations against its dense form."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from loss_checks import LargestTensor, drawn
from plain_torch import gradients
from simtile.functional import margin_regularizer, meta_contrast
from simtile.losses import MetaContrastLoss


def dense_scores(u, v, temperature):
    """(2B,) scores of partners and (2B, 2B - 2) of negatives, from the whole matrix."""
    B = len(u)
    z = torch.cat([u, v])
    s = z @ z.T / temperature
    partner = torch.arange(2 * B).roll(B)
    negative = ~torch.eye(2 * B, dtype=torch.bool)
    negative[torch.arange(2 * B), partner] = False
    return s[torch.arange(2 * B), partner], s[negative].view(2 * B, -1)


def dense_regularizer(u, v, temperature=1.0):
    """As in the authors' code, with its clamps."""
    positive, negatives = dense_scores(u, v, temperature)
    highest = negatives.max(1).values
    low, high = torch.minimum(positive, highest), torch.maximum(positive, highest)
    return (positive - low).clamp_min(0).mean() + (high[:, None] - negatives).clamp_min(0).mean()


def dense_contrast(u, v, temperature=1.0):
    positive, negatives = dense_scores(u, v, temperature)
    return cross_entropy(torch.cat([positive[:, None], negatives], 1), torch.zeros(len(positive)).long())


@pytest.mark.parametrize("B", [2, 3, 17])
def test_the_regulariser_is_its_dense_form(rng, B):
    inputs = [part.requires_grad_() for part in drawn(rng, (B, 5), (B, 5))]
    found, want = margin_regularizer(*inputs, temperature=0.7), dense_regularizer(*inputs, 0.7)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradients(found, inputs), gradients(want, inputs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plan", ["auto", "recompute"])
def test_the_loss_is_the_sum_of_three_contrasts_and_regularisers(rng, plan):
    a, b, c, d = inputs = [part.requires_grad_() for part in drawn(rng, *[(9, 5)] * 4)]
    want = sum(dense_contrast(u, v) + 0.1 * dense_regularizer(u, v) for u, v in ((a, d), (b, c), (c, d)))
    found = meta_contrast(*inputs, plan=plan)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, inputs), gradients(want, inputs), rtol=1e-9, atol=1e-12)
    rows = meta_contrast(*inputs, reduction="none")
    torch.testing.assert_close(rows.mean(), found, rtol=1e-12, atol=0)
    torch.testing.assert_close(meta_contrast(*inputs, reduction="sum"), rows.sum(), rtol=1e-12, atol=0)
    assert torch.equal(MetaContrastLoss()(*inputs), meta_contrast(*inputs))


def test_gradcheck(rng):
    inputs = [part.requires_grad_() for part in drawn(rng, (4, 3), (4, 3))]
    tau = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b, t: margin_regularizer(a, b, temperature=t), [*inputs, tau])
    views = [part.requires_grad_() for part in drawn(rng, *[(4, 3)] * 4)]
    assert torch.autograd.gradcheck(lambda *i: meta_contrast(*i[:4], temperature=i[4]), [*views, tau])


@pytest.mark.parametrize("B", [0, 1])
def test_without_negatives_it_is_zero(B):
    a, b = (torch.ones(B, 3, requires_grad=True) for _ in range(2))
    loss = margin_regularizer(a, b)
    loss.backward()
    assert loss == 0 and (a.grad == 0).all()
    assert torch.isfinite(meta_contrast(a, b, a, b))


def test_no_matrix_of_all_pairs_is_made():
    """2,048 views: 4M scores, against 64 numbers a view."""
    inputs = [torch.randn(1024, 8).requires_grad_() for _ in range(4)]
    with LargestTensor() as largest:
        meta_contrast(*inputs).backward()
    assert 0 < largest.elements <= 2048 * 64


def test_half_precision_gives_float32_losses(rng):
    inputs = [part.to(torch.bfloat16).requires_grad_() for part in drawn(rng, *[(6, 4)] * 4)]
    loss = meta_contrast(*inputs)
    assert loss.dtype == torch.float32
    assert all(part.dtype == torch.bfloat16 for part in gradients(loss, inputs))


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="view_b: as many rows as view_a, 3, got 2"):
        margin_regularizer(x, x[:2])
    with pytest.raises(ValueError, match="reduction: one of"):
        margin_regularizer(x, x, reduction="max")
