"""The hinge of the hardest negative, and deep boosting's margins over an anchor, against their dense equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from loss_checks import LargestTensor, drawn
from simtile.adaptive import deep_boosting, max_violation
from simtile.losses import DeepBoostingLoss, MaxViolationLoss


def scores(x: Tensor, y: Tensor) -> Tensor:
    return normalize(x, dim=1) @ normalize(y, dim=1).T


def of_hardest(cost: Tensor) -> Tensor:
    """(M,) the greatest cost of each row and of each of the first M columns, without the pairs (i, i)."""
    M = len(cost)
    cost = relu(cost)
    cost = cost * (1 - torch.eye(*cost.shape, dtype=cost.dtype))
    return cost.amax(1) + cost.amax(0)[:M]


def dense_max_violation(x: Tensor, y: Tensor, margin: float) -> Tensor:
    """arXiv:1707.05612, eq. 6."""
    s = scores(x, y)
    own = s.diagonal()
    M = len(x)
    row = (1 - torch.eye(*s.shape, dtype=s.dtype)) * relu(margin + s - own[:, None])
    column = (1 - torch.eye(M, dtype=s.dtype)) * relu(margin + s[:, :M] - own)
    return row.amax(1) + column.amax(0)


def dense_boosting(x: Tensor, y: Tensor, p: Tensor, q: Tensor, kind: str, margin: float, gamma: float) -> Tensor:
    """arXiv:2404.18114, as in the authors' code."""
    s, a = scores(x, y), scores(p, q)
    M = len(x)
    if kind == "absolute":
        right = 2 * relu(margin * gamma + a.diagonal() - s.diagonal())
        return right + of_hardest(margin * (1 - gamma) + s - a)
    off = 1 - torch.eye(*s.shape, dtype=s.dtype)
    row = off * relu(margin + (a.diagonal()[:, None] - a) - (s.diagonal()[:, None] - s))
    column = off[:, :M] * relu(margin + (a.diagonal() - a[:, :M]) - (s.diagonal() - s[:, :M]))
    return row.amax(1) + column.amax(0)


@pytest.mark.parametrize(("M", "N"), [(1, 1), (2, 2), (9, 9), (7, 20)])
def test_max_violation_equals_its_equation_in_value_and_gradient(rng, M, N):
    inputs = [part.requires_grad_() for part in drawn(rng, (M, 4), (N, 4))]
    got = max_violation(*inputs, margin=0.5, reduction="none")
    want = dense_max_violation(*inputs, 0.5)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(want.sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["absolute", "relative"])
@pytest.mark.parametrize(("M", "N"), [(1, 1), (9, 9), (7, 20)])
def test_deep_boosting_equals_its_equation_in_value_and_gradient(rng, kind, M, N):
    inputs = [part.requires_grad_() for part in drawn(rng, (M, 4), (N, 4))]
    anchor = [part.requires_grad_() for part in drawn(rng, (M, 6), (N, 6))]
    got = deep_boosting(*inputs, *anchor, kind=kind, gamma=0.3, reduction="none")
    want = dense_boosting(*inputs, *anchor, kind, 0.2, 0.3)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(got.sum(), [*inputs, *anchor], allow_unused=True)
    assert found[2] is None and found[3] is None  # the anchor is a constant
    for a, b in zip(found, torch.autograd.grad(want.sum(), inputs), strict=False):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(deep_boosting(*inputs, *anchor, kind=kind, gamma=0.3), want.mean())


def test_gradcheck(rng):
    x, y, p, q = drawn(rng, (4, 3), (5, 3), (4, 2), (5, 2))
    inputs = (x.requires_grad_(), y.requires_grad_())
    assert torch.autograd.gradcheck(max_violation, inputs)
    for kind in ("absolute", "relative"):
        assert torch.autograd.gradcheck(lambda x, y, kind=kind: deep_boosting(x, y, p, q, kind=kind), inputs)


def test_a_target_better_than_its_anchor_by_the_margin_has_no_loss():
    one, half = torch.eye(4), torch.eye(4) + 0.8  # cosines of 1 and 0, and of 1 and 0.9
    for kind in ("absolute", "relative"):
        assert deep_boosting(one, one, half, half, kind=kind, margin=0.0) == 0
        assert deep_boosting(half, half, one, one, kind=kind, margin=0.0) > 0.5
    assert deep_boosting(one, one, half, half, kind="relative", margin=0.2) == 0


def test_weights_and_precisions(rng):
    inputs = drawn(rng, (20, 8), (20, 8), (20, 5), (20, 5))
    weight = torch.linspace(0, 2, 20, dtype=torch.float64)
    rows = deep_boosting(*inputs, reduction="none")
    torch.testing.assert_close(deep_boosting(*inputs, weight=weight), (weight * rows).sum() / weight.sum())
    for dtype, bar in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        low = deep_boosting(*(part.to(dtype) for part in inputs))
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), rows.mean(), rtol=bar, atol=bar)


def test_no_matrix_of_all_pairs_is_made_forward_or_backward(rng):
    """2,048 pairs of width 8: 4M scores of each branch."""
    inputs = [part.float().requires_grad_() for part in drawn(rng, *[(2048, 8)] * 4)]
    with LargestTensor() as largest:
        (max_violation(*inputs[:2]) + deep_boosting(*inputs)).backward()
    assert 0 < largest.elements <= 32 * 2048


def test_modules_are_the_functions(rng):
    x, y, p, q = drawn(rng, (6, 3), (6, 3), (6, 3), (6, 3))
    assert torch.equal(MaxViolationLoss(0.4)(x, y), max_violation(x, y, margin=0.4))
    module = DeepBoostingLoss("relative", margin=0.4)
    assert torch.equal(module(x, y, p, q), deep_boosting(x, y, p, q, kind="relative", margin=0.4))
    assert "kind='relative'" in repr(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "other"}, "kind: one of"), ({"margin": -0.1}, "margin: a number of at least 0"),
     ({"gamma": 2.0}, "gamma: a number from 0 to 1")],
)  # fmt: skip
def test_wrong_arguments_are_named(options, message):
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=message):
        deep_boosting(x, x, x, x, **options)
    with pytest.raises(ValueError, match="anchor_query: 3 rows, got 2"):
        deep_boosting(x, x, x[:2], x)
