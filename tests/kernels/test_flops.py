"""What each loss costs, counted: u = 2 * M * N * D is one GEMM, and the interpreter sees every product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from jobs import job
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from simtile.kernels import accumulate, nested_grad
from simtile.kernels.accumulate import Wanted
from simtile.kernels.launch import Launch
from simtile.kernels.nested_grad import nested_lse_bwd
from simtile.kernels.nested_lse import nested_lse_fwd
from simtile.kernels.pair_grad import pair_lse_bwd
from simtile.kernels.pair_lse import pair_lse_fwd
from simtile.kernels.pair_nll import pair_nll_fwd
from simtile.kernels.pair_softplus import pair_softplus_fwd
from simtile.kernels.self_lse import self_lse_bwd, self_lse_fwd

SIZE = 96  # three tiles in every dimension, and no padding to count
UNIT = 2 * SIZE**3


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """FLOP of tile products and of the GEMMs that follow them."""
    flops: list[int] = []
    dot, product = InterpreterBuilder.create_dot, accumulate.add_product

    def create_dot(self: InterpreterBuilder, a: object, b: object, *rest: object) -> object:
        (m, k), (_, n) = a.data.shape, b.data.shape  # type: ignore[attr-defined]
        flops.append(2 * m * n * k)
        return dot(self, a, b, *rest)

    def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
        flops.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        product(total, a, b)

    with monkeypatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", create_dot)
        patch.setattr(accumulate, "add_product", add_product)
        patch.setattr(nested_grad, "add_product", add_product)
        yield flops


def gemms(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> float:
    with counted(monkeypatch) as flops:
        run()
    return sum(flops) / UNIT


def test_a_two_sided_loss_costs_four_gemms_and_three_with_a_stash(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, weight = job(rng, SIZE, SIZE, SIZE), torch.ones(SIZE)
    x, y = given.x, given.y

    def loss(stash: Tensor | None) -> None:
        row, column = pair_lse_fwd(x, y, direction="both", stash=stash)
        pair_lse_bwd(x, y, row=row, column=column, grad_row=weight, grad_column=weight, stash=stash)

    assert gemms(lambda: loss(None), monkeypatch) == 4
    assert gemms(lambda: loss(torch.empty(SIZE, SIZE)), monkeypatch) == 3


def test_gradients_in_the_forward_pass_cost_three(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    given = job(rng, SIZE, SIZE, SIZE)
    target = torch.zeros(SIZE)
    assert gemms(lambda: pair_nll_fwd(given.x, given.y, target, wanted=Wanted(scale=True)), monkeypatch) == 3
    assert gemms(lambda: pair_softplus_fwd(given.x, given.y, wanted=Wanted(scale=True)), monkeypatch) == 3


def test_no_gradient_work_for_a_frozen_side_or_without_gradients(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, target = job(rng, SIZE, SIZE, SIZE), torch.zeros(SIZE)
    for wanted, cost in ((None, 1), (Wanted(y=False), 2), (Wanted(x=False, scale=True), 2)):
        for run in (
            partial(pair_softplus_fwd, given.x, given.y, wanted=wanted),
            partial(pair_nll_fwd, given.x, given.y, target, wanted=wanted),
        ):
            assert gemms(run, monkeypatch) == cost


@pytest.mark.parametrize("dims", [(32, 64, 96), (8, 16, 32, 64, 96)])
def test_all_prefixes_cost_little_more_than_the_longest(
    dims: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefixes at multiples of a tile's depth cost nothing; a shorter one pads its range to one depth of a tile."""
    given = job(rng, SIZE, SIZE, SIZE)

    def loss() -> None:
        row, column = nested_lse_fwd(given.x, given.y, dims, direction="both")
        ones = torch.ones(len(dims), SIZE)
        nested_lse_bwd(given.x, given.y, dims, row=row, column=column, grad_row=ones, grad_column=ones)

    padded = sum(-(-(end - begin) // 32) * 32 for begin, end in zip((0, *dims[:-1]), dims, strict=True))
    assert gemms(loss, monkeypatch) == pytest.approx(2 * padded / SIZE + 2)


@pytest.mark.parametrize("depth", [32, 64])
def test_matryoshka_at_the_usual_dims_costs_at_most_a_tenth_more(
    depth: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    dims, launch = (64, 128, 256, 512, 768), Launch(32, 32, depth, 4, 1)
    given, weight = job(rng, 32, 32, 768), torch.ones(32)
    x, y = given.x, given.y

    def all_prefixes() -> None:
        row, column = nested_lse_fwd(x, y, dims, direction="both", launch=launch)
        ones = torch.ones(len(dims), 32)
        nested_lse_bwd(x, y, dims, row=row, column=column, grad_row=ones, grad_column=ones, launch=launch)

    def the_longest() -> None:
        row, column = pair_lse_fwd(x, y, direction="both", launch=launch)
        pair_lse_bwd(x, y, row=row, column=column, grad_row=weight, grad_column=weight, launch=launch)

    assert gemms(all_prefixes, monkeypatch) <= 1.1 * gemms(the_longest, monkeypatch)


def test_self_similarity_computes_half_of_its_pairs(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks: (3 + 1) / (2 * 3) of a GEMM, twice, and one whole GEMM for the product."""
    x = job(rng, SIZE, 1, SIZE).x
    row = self_lse_fwd(x, block_rows=32)
    assert gemms(lambda: self_lse_fwd(x, block_rows=32), monkeypatch) == pytest.approx(4 / 6)
    backward = gemms(lambda: self_lse_bwd(x, row, torch.ones(SIZE), block_rows=32), monkeypatch)
    assert backward == pytest.approx(4 / 6 + 1)
