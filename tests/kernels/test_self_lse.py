"""A matrix against itself from half of its pairs, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import DTYPES, SCALES, sum_floor
from torch import Tensor

from accuracy import assert_as_accurate, opposed_row, rounded, unit_rows
from simtile.kernels import reference_torch
from simtile.kernels.self_lse import self_lse_bwd, self_lse_fwd


def dense(x: Tensor, scale: Tensor, left_out: Tensor) -> Tensor:
    s = (scale.to(x.dtype) * (x @ x.T)).to(scale.dtype).masked_fill(left_out, -torch.inf)
    return reference_torch.logsumexp(s, 1)


def check(x: Tensor, scale: float, ids: Tensor | None = None, ids_mode: str = "exclude", **execution: int) -> None:
    left_out = torch.eye(len(x), dtype=torch.bool)
    if ids is not None:
        equal = ids[:, None] == ids
        left_out |= equal if ids_mode == "exclude" else ~equal
    options = {"scale": scale, "ids": ids, "ids_mode": ids_mode, **execution}
    row = self_lse_fwd(x, **options)
    weight = torch.linspace(0.5, 1.5, len(x))
    grads = self_lse_bwd(x, row, weight, wanted_scale=True, **options)
    outcome = []
    for dtype in (torch.float64, x.dtype):
        leaf = x.to(dtype, copy=True).requires_grad_()
        factor = torch.tensor(scale, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        lse = dense(leaf, factor.requires_grad_(), left_out)
        total = (lse.masked_fill(torch.isneginf(lse), 0.0) * weight.to(lse.dtype)).sum()
        outcome.append((lse.detach(), *torch.autograd.grad(total, (leaf, factor))))
    exact, plain = outcome
    assert_as_accurate(row, dense(x.float(), torch.tensor(scale), left_out), exact[0].numpy(), magnitude=scale)
    assert_as_accurate(grads.x, plain[1], exact[1].numpy(), floor=sum_floor(2 * len(x)))
    assert_as_accurate(grads.scale.to(x.dtype), plain[2], exact[2].numpy(), magnitude=float(len(x)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("M", [1, 20, 64, 100])
def test_every_size(M: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Blocks of 32 rows: one below a block, exact blocks, a ragged last one."""
    check(rounded(unit_rows(rng, M, 24), dtype)[0], 14.0, block_rows=32)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ids_mode", ["exclude", "only"])
def test_labels(ids_mode: str, scale: float, rng: np.random.Generator) -> None:
    x = rounded(unit_rows(rng, 70, 20), torch.float32)[0]
    check(x, scale, torch.from_numpy(rng.integers(0, 5, 70)), ids_mode, block_rows=32)


@pytest.mark.parametrize("scale", SCALES)
def test_a_row_opposed_to_everything(scale: float, rng: np.random.Generator) -> None:
    check(rounded(opposed_row(rng, 70, 1, 20)[0], torch.float32)[0], scale, block_rows=32)


def test_the_size_of_blocks_does_not_matter(rng: np.random.Generator) -> None:
    x = rounded(unit_rows(rng, 90, 12), torch.float32)[0]
    for block_rows in (16, 40, 90):
        check(x, 14.0, block_rows=block_rows)
