"""Ranks of target scores, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import SHAPES, Dense, job

from simtile.kernels.pair_rank import pair_rank_fwd


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("M", "N", "D"), [shape for shape in SHAPES if shape.values[0] <= shape.values[1]])
def test_own_scores_on_every_shape(M: int, N: int, D: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    given = job(rng, M, N, D, dtype=dtype, scale=14.0)
    s = Dense(given, torch.float64).scores
    own = s.diagonal()[:, None]
    above, equal = pair_rank_fwd(given.x, given.y, **given.options)
    # Random scores of one row are apart by more than rounding, but for a handful that sit next to the own one.
    near = ((s - own).abs() < 1e-4).sum(1) - 1
    assert ((above - (s > own).sum(1)).abs() <= near).all()
    assert ((equal - 1).abs() <= near).all()


def test_duplicates_of_the_own_column_count_as_equal(rng: np.random.Generator) -> None:
    given = job(rng, 40, 70, 33, scale=100.0)
    given.y[50] = given.y[3]
    given.y[64] = given.y[3]
    _, equal = pair_rank_fwd(given.x, given.y, **given.options)
    assert equal[3] == 3
    assert equal.sum() == 42


@pytest.mark.parametrize("rule", ["exclude", "only", "lists", "diagonal"])
def test_left_out_pairs_do_not_count(rule: str, rng: np.random.Generator) -> None:
    given = job(rng, 37, 70, 16, rules=(rule,))
    target = torch.full((37,), 0.1)
    s = Dense(given, torch.float64).scores
    above, equal = pair_rank_fwd(given.x, given.y, target, **given.options)
    near = ((s - 0.1).abs() < 1e-6).sum(1)
    assert ((above - (s > 0.1).sum(1)).abs() <= near).all()
    assert (equal <= near).all()
