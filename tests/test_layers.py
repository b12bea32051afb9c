"""Layers: a rotation that keeps the space, a head without parameters."""

from __future__ import annotations

import pytest
import torch

from loss_checks import drawn
from simtile.functional import info_nce, nt_xent
from simtile.layers import OrthogonalLayer, ReweightingHead


def test_a_rotation_keeps_all_inner_products_before_and_after_training(rng):
    torch.manual_seed(0)
    layer = OrthogonalLayer(6, 9).double()
    x, old = drawn(rng, (20, 6), (20, 4))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(30):
        h = layer(x)
        torch.testing.assert_close(h @ h.T, x @ x.T, rtol=0, atol=2e-5)  # where it starts is a rotation in float32
        loss = info_nce(h[:, :4], old, temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_rotation_of_vectors_that_hold_the_old_ones_finds_them(rng):
    """φ = an unknown rotation of [old, more]: aligned, old queries score new vectors as they do old ones."""
    torch.manual_seed(0)
    old, more = drawn(rng, (60, 3), (60, 2))
    old = torch.nn.functional.normalize(old)
    turn = torch.linalg.qr(torch.randn(5, 5).double()).Q
    new = torch.cat([old, more], 1) @ turn
    layer = OrthogonalLayer(5).double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(200):
        loss = (layer(new)[:, :3] - old).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    padded = torch.nn.functional.pad(old, (0, 2))
    assert (layer(new) @ padded.T - old @ old.T).abs().max() < 0.05


def test_gradcheck_of_a_rotation(rng):
    torch.manual_seed(0)
    layer = OrthogonalLayer(3, 4).double()
    (x,) = drawn(rng, (2, 3))
    (skew,) = layer.parameters()
    (name,) = dict(layer.named_parameters())

    def turned(x, skew):
        return torch.func.functional_call(layer, {name: skew}, x)

    assert torch.autograd.gradcheck(turned, [x.requires_grad_(), skew.detach().requires_grad_()])


def test_a_head_of_kappa_one_is_none_and_others_weigh_by_powers(rng):
    a, b = drawn(rng, (8, 5), (8, 5))
    head = ReweightingHead(5, 1.0)
    assert torch.equal(nt_xent(head(a), head(b)), nt_xent(a, b))
    torch.testing.assert_close(ReweightingHead(3, 4.0)(torch.ones(2, 3)), torch.tensor([[1, 0.25, 0.0625]] * 2))
    assert not list(head.parameters()) and "kappa=4" in repr(ReweightingHead(3, 4.0))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="width: at least features, 4, got 3"):
        OrthogonalLayer(4, 3)
    with pytest.raises(ValueError, match="kappa: above 0"):
        ReweightingHead(4, 0.0)
