"""Statistics of columns against a bank, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import SHAPES

from accuracy import assert_as_accurate, opposed_row, rounded, unit_rows
from simtile.kernels import reference
from simtile.kernels.pair_stats import pair_stats_fwd

BETAS = (1.0, 20.0, 300.0)


def check(bank: torch.Tensor, y: torch.Tensor, k: int = 3, **execution: int) -> None:
    stats = pair_stats_fwd(bank, y, betas=BETAS, k=k, **execution)
    exact = reference.pair_stats(bank.double().numpy(), y.double().numpy(), betas=BETAS, ks=(k,), partial=True)
    s = bank.float() @ y.float().T
    plain_lse = torch.stack([torch.logsumexp(beta * s, 0) for beta in BETAS])
    assert_as_accurate(stats.lse, plain_lse, exact.lse)
    assert_as_accurate(stats.mean, s.mean(0), exact.mean, magnitude=1.0)
    assert_as_accurate(stats.var, s.var(0, correction=0), exact.var, magnitude=1.0)
    assert_as_accurate(stats.top, torch.from_numpy(exact.top).float(), exact.top)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("M", "N", "D"), SHAPES)
def test_every_shape(M: int, N: int, D: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    check(rounded(unit_rows(rng, M, D), dtype)[0], rounded(unit_rows(rng, N, D), dtype)[0])


def test_a_column_opposed_to_the_whole_bank(rng: np.random.Generator) -> None:
    y, bank = (rounded(part, torch.float32)[0] for part in opposed_row(rng, 40, 70, 24))
    check(bank, y)


def test_blocks_of_the_bank_merge(rng: np.random.Generator) -> None:
    bank, y = (rounded(unit_rows(rng, rows, 12), torch.float32)[0] for rows in (130, 50))
    check(bank, y, partials_bytes=500)


def test_the_variance_of_nearly_equal_scores(rng: np.random.Generator) -> None:
    """Scores of 1 apart by 1e-4: a difference of squares has no correct digit of 1e-8."""
    bank = rounded(1.0 + 1e-4 * rng.standard_normal((60, 1)), torch.float32)[0]
    stats = pair_stats_fwd(bank, torch.ones(3, 1))
    exact = reference.pair_stats(bank.double().numpy(), np.ones((3, 1)))
    np.testing.assert_allclose(stats.var.numpy(), exact.var, rtol=1e-2)


def test_an_empty_bank_is_neutral() -> None:
    stats = pair_stats_fwd(torch.ones(0, 4), torch.ones(3, 4), betas=(2.0,))
    assert torch.isneginf(stats.lse).all()
    assert not stats.mean.any() and not stats.var.any()
