"""A matrix against itself from half of its pairs: value and gradients against float64, judged by plain torch."""

from __future__ import annotations

import math

import pytest
import torch

from accuracy import assert_as_accurate, rounded, unit_rows, with_duplicates
from plain_torch import coarse, gradients, masked, rounding, scores
from simtile.functional import pair_lse, self_lse
from simtile.kernels import reference_torch as twin

SHAPES = [
    pytest.param(1, 1, id="nothing-but-itself"),
    pytest.param(2, 3, id="one-pair"),
    pytest.param(97, 45, id="ragged"),
    pytest.param(384, 16, id="one-exact-block"),
    pytest.param(901, 33, id="several-blocks"),
]


def check(z, dtype, *, scale, plan, ids=None, ids_mode="exclude"):
    weight = torch.linspace(-1, 2, len(z), dtype=torch.float64)
    z = rounded(z, dtype)[1]
    mask = {} if ids is None else {"x_ids": ids, "y_ids": ids, "ids_mode": ids_mode}

    def run(function, dtype):
        inputs = [torch.from_numpy(z).to(dtype).requires_grad_(),
                  torch.tensor(scale, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)]  # fmt: skip
        row = function(*inputs)
        return row.detach(), gradients((row.masked_fill(row == -math.inf, 0.0) * weight.to(row.dtype)).sum(), inputs)

    exact = run(lambda z, s: twin.pair_lse(z, z, scale=s, skip_diagonal=True, **mask)[0], torch.float64)
    naive = run(lambda z, s: twin.logsumexp(masked(scores(z, z, s), skip_diagonal=True, **mask), 1), dtype)
    mine = run(lambda z, s: self_lse(z, scale=s, ids=ids, ids_mode=ids_mode, plan=plan), dtype)
    assert_as_accurate(mine[0], naive[0], exact[0].numpy(), magnitude=max(scale, 1.0))
    total = coarse(dtype) * float(weight.abs().sum())
    sizes = (2 * 2 * scale * (rounding(scale) if dtype == torch.float32 else 1.0), total)
    for got, bar, truth, size in zip(mine[1], naive[1], exact[1], sizes, strict=True):
        assert got.dtype == bar.dtype
        assert_as_accurate(got, bar, truth.numpy(), magnitude=size)


@pytest.mark.parametrize("plan", ["dense", "recompute"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("M", "D"), SHAPES)
def test_as_accurate_as_plain_torch_in_every_regime(rng, M, D, dtype, plan):
    check(unit_rows(rng, M, D), dtype, scale=14.0, plan=plan)


@pytest.mark.parametrize("temperature", [0.003, 0.07, 10.0])
def test_as_accurate_as_plain_torch_at_every_temperature(rng, temperature):
    check(unit_rows(rng, 400, 12), torch.float32, scale=1 / temperature, plan="recompute")
    check(with_duplicates(rng, 60, 12), torch.float32, scale=1 / temperature, plan="recompute")


@pytest.mark.parametrize("ids_mode", ["exclude", "only"])
def test_ids(rng, ids_mode):
    check(
        unit_rows(rng, 400, 12),
        torch.float32,
        scale=5.0,
        plan="recompute",
        ids=torch.arange(400) % 17,
        ids_mode=ids_mode,
    )


def test_float64_is_computed_in_float64(rng):
    z = torch.from_numpy(unit_rows(rng, 30, 5))
    torch.testing.assert_close(
        self_lse(z, scale=3.0), pair_lse(z, z, scale=3.0, skip_diagonal=True)[0], rtol=1e-13, atol=0
    )


def test_bits_do_not_depend_on_the_number_of_threads(rng):
    z, before, found = torch.from_numpy(unit_rows(rng, 900, 20)).float(), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = z.clone().requires_grad_()
            row = self_lse(x, scale=20.0, plan="recompute")
            row.sum().backward()
            found.append((row.detach(), x.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_compiled_without_graph_breaks_and_refused_a_second_time():
    z = torch.randn(20, 4, requires_grad=True)
    torch._dynamo.reset()
    run = torch.compile(lambda z: self_lse(z, plan="recompute").sum(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(z), self_lse(z, plan="recompute").sum())
    (grad,) = torch.autograd.grad(self_lse(z, plan="recompute").sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids_mode": "only"}, "ids_mode: 'only' needs ids"),
        ({"ids": torch.arange(3)}, r"ids: shape \(2,\)"),
        ({"plan": "chunked"}, "plan: one of 'auto', 'dense', 'recompute'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        self_lse(torch.ones(2, 3), **arguments)
