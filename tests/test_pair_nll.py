"""Negative log-likelihood of targets: links, reductions, weights, both places where the gradient is made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from accuracy import TEMPERATURES, assert_as_accurate, rounded, unit_rows
from plain_torch import coarse, gradients, masked, scores
from simtile.functional import pair_nll
from simtile.kernels import reference as ref, reference_torch as twin

PLANS = ["dense", "chunked", "recompute"]
SHAPES = [
    pytest.param(1, 1, 1, id="one-pair"),
    pytest.param(5, 7, 3, id="below-a-tile"),
    pytest.param(97, 131, 45, id="ragged-in-every-dimension"),
    pytest.param(384, 400, 64, id="exact-blocks"),
    pytest.param(1, 300, 16, id="one-row"),
]


def check(x, y, dtype, *, scale, plan, target, link, weight=None, **mask):
    """The mean and its gradients by x, y, the scale and the targets."""
    (x, exact_x), (y, exact_y) = rounded(x, dtype), rounded(y, dtype)
    wide = torch.promote_types(dtype, torch.float32)

    def run(function, x, y, wide):
        inputs = [
            x.clone().requires_grad_(),
            y.clone().requires_grad_(),
            torch.tensor(scale, dtype=wide, requires_grad=True),
        ]
        t = None
        if target is not None:
            t = torch.from_numpy(target).to(wide).requires_grad_()
            inputs.append(t)
        w = None if weight is None else torch.from_numpy(weight).to(wide)
        loss = function(inputs[0], inputs[1], t, weight=w, link=link, scale=inputs[2], **mask)
        return loss, gradients(loss, inputs)

    def plain(x, y, target, *, weight, link, scale, **mask):
        s = scores(x, y, scale)
        if target is None:
            target, mask = s.diagonal(), {**mask, "skip_diagonal": True}
        z = twin.logsumexp(masked(s, **mask), 1) - target
        return twin.reduce_rows(twin.softplus(z) if link == "softplus" else z, weight, "mean")

    exact = run(twin.pair_nll, torch.from_numpy(exact_x), torch.from_numpy(exact_y), torch.float64)
    naive = run(plain, x, y, wide)
    mine = run(lambda *i, **o: pair_nll(*i, plan=plan, **o), x, y, wide)
    assert_as_accurate(mine[0].detach(), naive[0], exact[0].detach().numpy(), magnitude=float(scale))
    for i, (got, bar, truth) in enumerate(zip(mine[1], naive[1], exact[1], strict=True)):
        assert got.dtype == (dtype if i < 2 else wide)
        # A row's coefficients sum to 0: an ulp is one of the terms that cancel, for the scale of 16-bit ones.
        term = 2 * scale / len(x) if i < 2 else 2.0 * (coarse(dtype) if i == 2 else 1.0)
        assert_as_accurate(got, bar, truth.numpy(), magnitude=term)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("own", [True, False], ids=["own partner", "given target"])
@pytest.mark.parametrize(("M", "N", "D"), SHAPES)
def test_as_accurate_as_plain_torch_in_every_regime(rng, M, N, D, own, dtype):
    for plan in PLANS:
        for link in ("lse", "softplus"):
            check(unit_rows(rng, M, D), unit_rows(rng, N, D), dtype, scale=14.0, plan=plan, link=link,
                  target=None if own else rng.normal(size=M))  # fmt: skip


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_as_accurate_as_plain_torch_at_every_temperature(rng, temperature):
    for plan in PLANS:
        check(unit_rows(rng, 40, 33), unit_rows(rng, 53, 33), torch.float32, scale=1 / temperature, plan=plan,
              link="softplus", target=None)  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_weights_and_masks(rng, plan):
    weight = rng.integers(0, 3, 40).astype(float)
    mask = {
        "x_ids": torch.arange(40) % 5,
        "y_ids": torch.arange(53) % 7,
        "exclude": (torch.arange(41), torch.arange(40)),
    }
    for link in ("lse", "softplus"):
        x, y, target = unit_rows(rng, 40, 33), unit_rows(rng, 53, 33), rng.normal(size=40)
        check(x, y, torch.float32, scale=5.0, plan=plan, link=link, weight=weight, target=target, **mask)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("own", [True, False], ids=["own partner", "given target"])
def test_pairs_whose_guide_is_above_the_own_one_are_left_out(rng, own, plan):
    """GISTEmbed, arXiv:2402.16829: a key that the guide likes better than the row's own is no negative."""
    features = torch.from_numpy(rng.integers(-2, 3, (2, 40, 6))).float()
    mask = {"threshold": (features[0] * features[1]).sum(1), "guide": tuple(features)}
    for dtype in (torch.float32, torch.bfloat16):
        for link in ("lse", "softplus"):
            check(unit_rows(rng, 40, 33), unit_rows(rng, 40, 33), dtype, scale=5.0, plan=plan, link=link,
                  target=None if own else rng.normal(size=40), **mask)  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("direction", ["row", "column"])
def test_reductions_biases_and_directions(rng, reduction, direction):
    x, y = rng.normal(size=(21, 5)), rng.normal(size=(21, 5))
    x_bias, y_bias = rng.normal(size=21), rng.normal(size=21)
    weight, target = rng.integers(0, 3, 21).astype(float), rng.normal(size=21)
    drop = rng.random((21, 21)) < 0.2
    csr = (torch.from_numpy(np.r_[0, np.cumsum(drop.sum(1))]), torch.from_numpy(np.nonzero(drop)[1]))
    inputs = [torch.from_numpy(part).requires_grad_() for part in (x, y, x_bias, y_bias)]

    def mine(x, y, x_bias, y_bias, dtype=torch.float64, plan="auto", own=False):
        t = None if own else torch.from_numpy(target).to(dtype)
        return pair_nll(
            x, y, t, weight=torch.from_numpy(weight).to(dtype), link="softplus", reduction=reduction, x_bias=x_bias,
            y_bias=y_bias, exclude=csr, direction=direction, plan=plan,
        )  # fmt: skip

    for own in (False, True):
        a, b = ((x, x_bias), (y, y_bias)) if direction == "row" else ((y, y_bias), (x, x_bias))
        d = drop if direction == "row" else drop.T
        want = ref.pair_nll(
            a[0], b[0], None if own else target, weight=weight, link="softplus", reduction=reduction, x_bias=a[1],
            y_bias=b[1], exclude=(np.r_[0, np.cumsum(d.sum(1))], np.nonzero(d)[1]),
        )  # fmt: skip
        exact = gradients(mine(*inputs, own=own).sum(), inputs)
        for plan in ("dense", "recompute", "chunked")[: 3 if reduction != "none" else 2]:
            np.testing.assert_allclose(mine(*inputs, plan=plan, own=own).detach(), want, rtol=1e-12, atol=1e-14)
            single = [part.detach().float().requires_grad_() for part in inputs]
            loss = mine(*single, dtype=torch.float32, plan=plan, own=own)
            np.testing.assert_allclose(loss.detach(), want, rtol=2e-5, atol=2e-6)
            for got, truth in zip(gradients(loss.sum(), single), exact, strict=True):
                # A shift of a row changes nothing: by x_bias the gradient is a sum of coefficients that cancel.
                np.testing.assert_allclose(got, truth, rtol=2e-5, atol=2e-6 * weight.max())


@pytest.mark.parametrize("plan", PLANS)
def test_a_padded_row_may_hold_anything(plan):
    x, y = torch.randn(4, 3), torch.randn(6, 3)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0])

    def run(padding):
        rows = x.clone()
        rows[1], rows[3] = padding, padding
        rows.requires_grad_()
        keys = y.clone().requires_grad_()
        loss = pair_nll(rows, keys, None, weight=weight, link="softplus", plan=plan)
        loss.backward()
        return loss.detach(), rows.grad, keys.grad

    for a, b in zip(run(0.0), run(math.nan), strict=True):
        assert torch.equal(a, b)
    assert (run(math.nan)[1][1] == 0).all()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("weight", [None, torch.zeros(3)])
def test_rows_without_a_kept_pair_have_no_loss(plan, weight):
    x, y = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    ids = torch.zeros(3, dtype=torch.int64)
    loss = pair_nll(x, y, None, x_ids=ids, y_ids=ids, weight=weight, plan=plan)
    loss.backward()
    assert loss == 0 and (x.grad == 0).all() and (y.grad == 0).all()


@pytest.mark.parametrize("plan", PLANS)
def test_no_rows(plan):
    x, y = torch.ones(0, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    loss = pair_nll(x, y, None, plan=plan)
    loss.backward()
    assert loss == 0 and (y.grad == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": None, "x": torch.ones(3, 2)}, "target: None takes each pair's own partner"),
        ({"target": torch.ones(3)}, r"target: floating point, shape \(2,\)"),
        ({"weight": torch.ones(3)}, r"weight: floating point, shape \(2,\)"),
        ({"link": "log"}, "link: one of"),
        ({"reduction": "max"}, "reduction: one of"),
        ({"direction": "both"}, "direction: one of 'row', 'column', got 'both'"),
        ({"direction": "column", "threshold": torch.ones(2)}, "threshold: belongs to the rows of x"),
        ({"reduction": "none", "plan": "chunked"}, "plan: 'chunked' needs a reduced"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pair_nll(**{"x": torch.ones(2, 2), "y": torch.ones(2, 2), "target": torch.zeros(2), **arguments})
