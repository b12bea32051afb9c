"""The sum of softplus over all pairs, and the sigmoid loss made of it."""

from __future__ import annotations

import pytest
import torch

from accuracy import REGIMES, assert_as_accurate, rounded, unit_rows
from plain_torch import coarse, gradients, scores
from simtile.functional import pair_softplus
from simtile.kernels import reference_torch as twin


def check(x, y, dtype, *, scale, plan, reduction="mean", bias=None, **mask):
    (x, exact_x), (y, exact_y) = rounded(x, dtype), rounded(y, dtype)
    wide = torch.promote_types(dtype, torch.float32)

    def run(function, x, y, wide):
        inputs = [
            x.clone().requires_grad_(),
            y.clone().requires_grad_(),
            torch.tensor(scale, dtype=wide, requires_grad=True),
        ]
        inputs.append(torch.linspace(-3, 1, len(y)).to(wide).requires_grad_())
        loss = function(inputs[0], inputs[1], reduction=reduction, scale=inputs[2], y_bias=inputs[3], **mask)
        return loss, gradients((loss * torch.linspace(1, 2, len(x)).to(wide)).sum() if loss.ndim else loss, inputs)

    def plain(x, y, *, reduction, scale, y_bias, **mask):
        s = scores(x, y, scale, None, y_bias)
        rows = twin.softplus(s).masked_fill(twin.left_out(*s.shape, **mask), 0.0).sum(1)
        return twin.reduce_rows(rows, None, reduction)

    exact = run(twin.pair_softplus, torch.from_numpy(exact_x), torch.from_numpy(exact_y), torch.float64)
    naive, mine = run(plain, x, y, wide), run(lambda *i, **o: pair_softplus(*i, plan=plan, **o), x, y, wide)
    assert_as_accurate(mine[0].detach(), naive[0], exact[0].detach().numpy())
    pairs = len(x) * len(y) / (len(x) if reduction == "mean" else 1)
    for i, (got, bar, truth) in enumerate(zip(mine[1], naive[1], exact[1], strict=True)):
        assert got.dtype == (dtype if i < 2 else wide)
        # dscale and the biases' gradients sum 16-bit coefficients; dscale's terms have both signs.
        term = (
            (scale / len(x) if i < 2 else pairs / 4 * coarse(dtype))
            if i < 3
            else float(truth.abs().max()) * coarse(dtype)
        )
        assert_as_accurate(got, bar, truth.numpy(), magnitude=max(term, float(truth.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("M", "N", "D"), REGIMES)
def test_as_accurate_as_plain_torch_in_every_regime(rng, M, N, D, dtype):
    for plan in ("dense", "chunked"):
        check(unit_rows(rng, M, D), unit_rows(rng, N, D), dtype, scale=10.0, plan=plan)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_and_masks(rng, reduction):
    mask = {"x_ids": torch.arange(40) % 5, "y_ids": torch.arange(53) % 7, "skip_diagonal": True}
    for plan in ("dense", "recompute", "chunked")[: 3 if reduction != "none" else 2]:
        for ids_mode in ("exclude", "only"):
            check(unit_rows(rng, 40, 33), unit_rows(rng, 53, 33), torch.float32, scale=10.0, plan=plan,
                  reduction=reduction, ids_mode=ids_mode, **mask)  # fmt: skip


@pytest.mark.parametrize("temperature", [0.003, 0.01, 10.0])
def test_as_accurate_as_plain_torch_at_extreme_temperatures(rng, temperature):
    for plan in ("dense", "chunked"):
        check(unit_rows(rng, 40, 33), unit_rows(rng, 53, 33), torch.float32, scale=1 / temperature, plan=plan)


@pytest.mark.parametrize("plan", ["dense", "chunked", "recompute"])
@pytest.mark.parametrize(("M", "N"), [(0, 3), (3, 0)])
def test_nothing_to_sum(M, N, plan):
    x, y = torch.ones(M, 2, requires_grad=True), torch.ones(N, 2, requires_grad=True)
    loss = pair_softplus(x, y, plan=plan)
    loss.backward()
    assert loss == 0 and (x.grad == 0).all() and (y.grad == 0).all()


def test_a_stash_is_refused():
    with pytest.raises(ValueError, match="plan: 'stash' is for two-sided"):
        pair_softplus(torch.ones(2, 2).bfloat16(), torch.ones(2, 2).bfloat16(), reduction="none", plan="stash")
