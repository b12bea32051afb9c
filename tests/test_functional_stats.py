"""Bank statistics of the torch layer: against the float64 specification, and blocks that merge to the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from accuracy import rounded, unit_rows
from simtile.functional import merge_stats, pair_stats
from simtile.kernels import reference as ref

FIELDS = ("lse", "mean", "var", "topk_mean")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("Nb", "Ny", "D"), [(1, 1, 1), (130, 70, 33), (400, 17, 8)])
def test_equals_the_specification(rng, Nb, Ny, D, dtype):
    bank, y = (rounded(unit_rows(rng, rows, D), dtype) for rows in (Nb, Ny))
    ks = [1, min(7, Nb)]
    got = pair_stats(bank[0], y[0], betas=[1.0, 30.0], ks=ks)
    want = ref.pair_stats(bank[1], y[1], betas=[1.0, 30.0], ks=ks)
    tolerance = 1e-12 if dtype == torch.float64 else 4e-6
    for name in FIELDS:
        assert getattr(got, name).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=tolerance, atol=tolerance)


@given(seed=st.integers(0, 2**31), cut=st.integers(0, 60))
def test_blocks_of_a_bank_merge_to_the_whole(seed, cut):
    rng = np.random.default_rng(seed)
    bank, y = (torch.from_numpy(unit_rows(rng, rows, 8)).float() for rows in (60, 20))
    how = {"betas": [5.0], "ks": [3, 9], "partial": True}
    merged = merge_stats(pair_stats(bank[:cut], y, **how), pair_stats(bank[cut:], y, **how))
    whole = pair_stats(bank, y, **how)
    assert merged.count == 60
    for name in FIELDS:
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_bank_without_rows_is_neutral(dtype):
    stats = pair_stats(torch.ones(0, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype), betas=[1.0], ks=[2], partial=True)
    assert (stats.lse == -math.inf).all() and (stats.mean == 0).all() and (stats.var == 0).all()
    with pytest.raises(ValueError, match="ks: at most the 0 rows of the bank, got 2"):
        _ = stats.topk_mean


def test_operator_and_fake_tensors():
    bank, y = torch.randn(9, 4), torch.randn(5, 4)
    opcheck(torch.ops.simtile.pair_stats.default, (bank, y, [2.0], 3))
    with FakeTensorMode():
        stats = pair_stats(torch.empty(9, 4, device="cuda"), torch.empty(5, 4, device="cuda"), betas=[2.0], ks=[3])
        assert stats.lse.shape == (1, 5) and stats.top.shape == (3, 5) and stats.mean.device.type == "cuda"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"betas": [0.0]}, ValueError, "betas: finite numbers above 0"),
        ({"ks": [0]}, ValueError, "ks: at least 1"),
        ({"ks": [3]}, ValueError, "ks: at least 1 and, unless partial, at most the 2 rows of the bank"),
        ({"ks": [1.0]}, TypeError, "ks: integers"),
        ({"y": torch.ones(2, 4)}, ValueError, "y: as many columns as bank"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        pair_stats(**{"bank": torch.ones(2, 3), "y": torch.ones(2, 3), **arguments})


def test_statistics_of_different_kinds_do_not_merge():
    a, b = (pair_stats(torch.eye(2), torch.eye(2), betas=[beta]) for beta in (1.0, 2.0))
    with pytest.raises(ValueError, match="b: betas, ks and the number of vectors of a"):
        merge_stats(a, b)
