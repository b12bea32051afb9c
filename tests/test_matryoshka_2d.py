"""2D Matryoshka against its equation layer by layer, and what its divergence pulls on."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import dense_losses as dense
from loss_checks import LargestTensor, drawn
from simtile.functional import matryoshka_2d, matryoshka_info_nce
from simtile.losses import Matryoshka2dLoss


def nested(q, k, dims, temperature):
    """Σ over prefixes of InfoNCE."""
    total = 0
    for d in dims:
        a, b = dense.rows_of(q[:, :d], k[:, :d])
        s = a @ b.T / temperature
        total = total - torch.log_softmax(s, 1).diagonal().mean()
    return total


def dense_2d(q, k, dims, temperature, tau, kl_weight):
    """arXiv:2402.14776: the last layer, the mean of the others under 1 / (1 + ln l), and each one's KL to the last."""
    total, n = nested(q[-1], k[-1], dims, temperature), len(q) - 1
    last = F.softmax(torch.cat([q[-1], k[-1]]).detach() / tau, -1)
    for layer in range(n):
        total = total + nested(q[layer], k[layer], dims, temperature) / (1 + math.log(layer + 1)) / n
        log_q = F.log_softmax(torch.cat([q[layer], k[layer]]) / tau, -1)
        total = total + kl_weight * tau * F.kl_div(log_q, last, reduction="batchmean")
    return total


def layers(rng, n=3, M=9, D=8):
    parts = [part.requires_grad_() for part in drawn(rng, *[(M, D)] * (2 * n))]
    return parts[:n], parts[n:]


@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_equals_its_equation_in_value_and_gradient(rng, n, kl_weight):
    q, k = layers(rng, n)
    got = matryoshka_2d(q, k, [2, 5, 8], temperature=0.2, kl_weight=kl_weight)
    want = dense_2d(q, k, [2, 5, 8], 0.2, 0.3, kl_weight)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(got, [*q, *k]), torch.autograd.grad(want, [*q, *k]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_gradcheck_of_the_earlier_layer(rng):
    q, k = layers(rng, 2, 4, 3)
    last = q[-1].detach(), k[-1].detach()
    assert torch.autograd.gradcheck(lambda a, b: matryoshka_2d([a, last[0]], [b, last[1]], [2, 3]), (q[0], k[0]))


def test_the_divergence_moves_the_earlier_layer_only(rng):
    q, k = layers(rng, 2)
    for kl_weight in (1.0, 5.0):
        loss = matryoshka_2d(q, k, [8], layer_weights=[0.0], kl_weight=kl_weight)
        first, last = torch.autograd.grad(loss, [q[0], q[1]])
        assert first.abs().sum() > 0
        alone = torch.autograd.grad(matryoshka_info_nce(q[1], k[1], [8], temperature=0.05), q[1])[0]
        torch.testing.assert_close(last, alone)
    same = matryoshka_2d([q[1], q[1]], [k[1], k[1]], [8], layer_weights=[0.0])
    torch.testing.assert_close(same, matryoshka_info_nce(q[1], k[1], [8], temperature=0.05))


def test_reductions_weights_and_the_module(rng):
    q, k = layers(rng, 3)
    weight = torch.linspace(0, 2, 9, dtype=torch.float64)
    rows = matryoshka_2d(q, k, [4, 8], reduction="none")
    torch.testing.assert_close(rows.mean(), matryoshka_2d(q, k, [4, 8]))
    torch.testing.assert_close((weight * rows).sum() / weight.sum(), matryoshka_2d(q, k, [4, 8], weight=weight))
    module = Matryoshka2dLoss([4, 8], kl_weight=0.5)
    assert torch.equal(module(q, k), matryoshka_2d(q, k, [4, 8], kl_weight=0.5))
    assert "kl_weight=0.5" in repr(module)


def test_no_matrix_of_all_pairs_is_made(rng):
    q, k = ([part.detach().float().requires_grad_() for part in side] for side in layers(rng, 2, 2048, 16))
    with LargestTensor() as largest:
        matryoshka_2d(q, k, [8, 16]).backward()
    assert 0 < largest.elements <= 64 * 2048


def test_wrong_arguments_are_named():
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="key_layers: one for each of query_layers, 2, got 1"):
        matryoshka_2d([x, x], [x], [4])
    with pytest.raises(ValueError, match="layer_weights: one for each of the 1 earlier layers, got 2"):
        matryoshka_2d([x, x], [x, x], [4], layer_weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="query_layers: 3 rows each, got 2"):
        matryoshka_2d([x[:2], x], [x[:2], x], [4])
    with pytest.raises(ValueError, match="kl_temperature: a number above 0"):
        matryoshka_2d([x], [x], [4], kl_temperature=0.0)
