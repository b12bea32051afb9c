"""AMCL against the authors' form with every negative as a row, and what it stores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from loss_checks import LargestTensor, drawn
from simtile.adaptive import amcl
from simtile.losses import AMCLLoss


def dense(a: Tensor, b: Tensor, g: Tensor, h: Tensor, low: float, high: float, k: int, beta: float) -> Tensor:
    """arXiv:2310.05615, eq. 2.1 with the k most similar negatives of eq. 5: (B,) losses."""
    z, gate, n = torch.cat([normalize(a, dim=1), normalize(b, dim=1)]), torch.cat([g, h]), len(a)
    s, tau = z @ z.T, low + (high - low) / (1 + (gate @ gate.T).exp())
    rows, partner = torch.arange(2 * n), torch.arange(2 * n).roll(n)
    right, t = s[rows, partner], tau[rows, partner]
    loss = -right / t + beta * (a.shape[1] / 2 * t.log() + 1 / t)
    negative = s.detach().clone()
    negative[rows, rows] = negative[rows, partner] = -torch.inf
    best = negative.topk(min(k, 2 * n - 2), 1).indices
    if best.shape[1]:
        hard, t = s.gather(1, best), tau.gather(1, best)
        loss = loss + (hard / t).mean(1) - beta * (t.log() + 1 / t).sum(1)
    return loss.view(2, -1).mean(0)


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("B", [1, 2, 9, 40])
def test_equals_its_equation_in_value_and_gradient(rng, B, k):
    inputs = [part.requires_grad_() for part in drawn(rng, (B, 6), (B, 6), (B, 4), (B, 4))]
    got = amcl(*inputs, temperatures=(0.1, 2.0), top_k=k, beta=0.3, reduction="none")
    want = dense(*inputs, 0.1, 2.0, k, 0.3)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    weights = torch.linspace(0.5, 2, B, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((weights * got).sum(), inputs), torch.autograd.grad((weights * want).sum(), inputs),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        amcl(*inputs, temperatures=(0.1, 2.0), top_k=k, beta=0.3, weight=weights),
        (weights * want).sum() / weights.sum(),
    )


def test_gradcheck(rng):
    inputs = [part.requires_grad_() for part in drawn(rng, (4, 3), (4, 3), (4, 2), (4, 2))]
    assert torch.autograd.gradcheck(lambda *i: amcl(*i, temperatures=(0.2, 2.0), top_k=3, beta=0.1), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_is_near_float64(rng, dtype):
    inputs = [part.to(dtype) for part in drawn(rng, (30, 8), (30, 8), (30, 8), (30, 8))]
    got = amcl(*inputs, temperatures=(0.1, 2.0), top_k=10)
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.double(), amcl(*(part.double() for part in inputs), temperatures=(0.1, 2.0), top_k=10),
        rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5 if dtype == torch.float32 else 2e-2,
    )  # fmt: skip


def test_no_matrix_of_all_pairs_is_made_forward_or_backward(rng):
    """4,096 views of width 8: 17M scores, against 10 numbers a view for the kept pairs and a workspace of 16 MiB."""
    inputs = [part.float().requires_grad_() for part in drawn(rng, *[(2048, 8)] * 4)]
    with LargestTensor() as largest:
        amcl(*inputs, top_k=10, temperatures=(0.1, 2.0)).backward()
    assert 0 < largest.elements <= 8 * 10 * 4096


def test_the_module_sums_heads_and_learns_its_temperatures(rng):
    a, b = (part.float() for part in drawn(rng, (7, 3, 5), (7, 3, 5)))
    module = AMCLLoss(5, temperatures=(0.1, 2.0), top_k=4)
    loss = module(a, b)
    loss.backward()
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in module.parameters())
    one = [module(a[:, head], b[:, head]) for head in range(3)]
    torch.testing.assert_close(loss, torch.stack(one).sum())
    assert "top_k=4" in repr(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperatures": (0.0, 1.0)}, "temperatures:"), ({"top_k": 0}, "top_k: at least 1"),
     ({"beta": -1.0}, "beta: a number of at least 0")],
)  # fmt: skip
def test_wrong_arguments_are_named(options, message):
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=message):
        amcl(x, x, x, x, **options)
    with pytest.raises(ValueError, match="gate_a: as many rows as view_a, 3, got 2"):
        amcl(x, x, x[:2], x[:2])
