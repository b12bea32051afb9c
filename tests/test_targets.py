"""Factorised targets: equal to dense weights, gradients included, without a matrix of all pairs."""

from __future__ import annotations

import pytest
import torch

from loss_checks import drawn
from plain_torch import gradients
from simtile import targets

M, N, D, E = 13, 17, 6, 4


def csr(kept):
    """(indptr, indices) of a boolean matrix."""
    return torch.cat([torch.zeros(1, dtype=torch.long), kept.sum(1).cumsum(0)]), kept.nonzero()[:, 1]


def cases(rng):
    """name -> (factorised target, the dense weights it stands for)."""
    p, q = drawn(rng, (M, E), (N, E))
    ids, key_ids = torch.from_numpy(rng.integers(0, 5, M)), torch.from_numpy(rng.integers(0, 5, N))
    same = (ids[:, None] == key_ids).double()
    others = (~torch.eye(M, N, dtype=torch.bool)).double()
    kept = torch.from_numpy(rng.random((M, N)) < 0.2)
    weight = torch.from_numpy(rng.uniform(0.5, 2.0, int(kept.sum())))
    logits = p @ q.T * 3.0
    weights = torch.zeros(M, N).double()
    weights[kept] = weight
    return {
        "partner": (lambda x, y, c: targets.partner(x, y, scale=c), torch.eye(M, N).double()),
        "same_label": (lambda x, y, c: targets.same_label(x, y, ids, key_ids, scale=c), same),
        "same_label without self": (
            lambda x, y, c: targets.same_label(x, y, ids, key_ids, scale=c, skip_diagonal=True), same * others,
        ),
        "bilinear": (
            lambda x, y, c: targets.bilinear(x, y, p, q, offset=0.3, slope=0.7, scale=c), 0.3 + 0.7 * p @ q.T,
        ),
        "teacher": (lambda x, y, c: targets.teacher(x, y, p, q, teacher_scale=3.0, scale=c), logits.softmax(1)),
        "teacher without self": (
            lambda x, y, c: targets.teacher(x, y, p, q, teacher_scale=3.0, scale=c, skip_diagonal=True),
            logits.masked_fill(others == 0, -torch.inf).softmax(1),
        ),
        "listed": (lambda x, y, c: targets.listed(x, y, csr(kept), weight=weight, scale=c), weights),
    }  # fmt: skip


def test_equal_dense_weights_to_1e_12(rng):
    for name, (factorised, weights) in cases(rng).items():
        inputs = [*drawn(rng, (M, D), (N, D)), torch.tensor(1.7, dtype=torch.float64)]
        inputs = [part.requires_grad_() for part in inputs]
        x, y, scale = inputs
        found = factorised(*inputs)
        score = (weights * (x @ y.T * scale)).sum(1)
        torch.testing.assert_close(found.score, score, rtol=1e-12, atol=1e-12, msg=name)
        torch.testing.assert_close(found.total, weights.sum(1), rtol=1e-12, atol=1e-12, msg=name)
        part = torch.from_numpy(rng.normal(size=M))
        got, want = (gradients((part * values).sum(), inputs) for values in (found.score, score))
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12, msg=name)


def test_listed_weights_get_their_gradient(rng):
    x, y = drawn(rng, (4, 3), (5, 3))
    kept = torch.from_numpy(rng.random((4, 5)) < 0.5)
    weight = torch.rand(int(kept.sum())).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y, w: targets.listed(x, y, csr(kept), weight=w).mean, (x.requires_grad_(), y.requires_grad_(), weight)
    )


def test_a_row_without_weights_has_mean_zero(rng):
    x, y = drawn(rng, (3, 2), (4, 2))
    found = targets.same_label(x, y, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1, 1]))
    assert found.total.tolist() == [2, 2, 0] and found.mean[2] == 0


@pytest.mark.parametrize("name", ["bilinear", "teacher", "teacher without self", "same_label"])
def test_nothing_of_all_pairs_is_kept(rng, name):
    """What autograd holds for the backward pass, at 8,192 rows: far below one matrix of all pairs."""
    B = 8192
    x, y = torch.randn(B, 8, requires_grad=True), torch.randn(B, 8, requires_grad=True)
    p, ids = torch.randn(B, 5), torch.arange(B) % 100
    make = {
        "bilinear": lambda: targets.bilinear(x, y, p, p),
        "teacher": lambda: targets.teacher(x, y, p, p, teacher_scale=2.0),
        "teacher without self": lambda: targets.teacher(x, y, p, p, teacher_scale=2.0, skip_diagonal=True),
        "same_label": lambda: targets.same_label(x, y, ids, ids),
    }[name]
    largest = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        make().score.sum()
    assert largest <= B * 16


def test_what_is_compiled_of_a_teacher_is_the_same(rng):
    y, p, q = drawn(rng, (N, D), (M, E), (N, E))
    for skip in (False, True):
        torch.testing.assert_close(targets._traced_attention(y, p, q, skip), targets._attention(y, p, q, skip))


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="y: at least as many rows as x, 3, got 2"):
        targets.partner(x, x[:2])
    with pytest.raises(ValueError, match="q: 3 rows, got 2"):
        targets.bilinear(x, x, x, x[:2])
    with pytest.raises(ValueError, match="y: as many columns as x"):
        targets.teacher(x, torch.ones(3, 4), x, x)
