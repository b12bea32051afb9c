"""The NumPy specification against independent float64 torch."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn import functional as F

from accuracy import (
    REGIMES,
    TEMPERATURES,
    csr,
    opposed_row,
    tensors,
    unit_rows,
    with_duplicates,
    with_zero_rows,
)
from simtile.kernels import reference as ref, reference_torch as twin

# A few ulp of sums whose order is not that of torch; a wrong definition is off by far more.
close = np.testing.assert_allclose
EXACT = {"rtol": 1e-12, "atol": 1e-12}
INF = math.inf

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 12)


# --- log-sum-exp ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("M", "N", "D"), REGIMES)
def test_pair_lse_is_torchs_logsumexp_of_the_dense_scores(rng, M, N, D):
    x, y, x_bias, y_bias = unit_rows(rng, M, D), unit_rows(rng, N, D), rng.normal(size=M), rng.normal(size=N)
    s = 20 * torch.from_numpy(x @ y.T) + torch.from_numpy(x_bias)[:, None] + torch.from_numpy(y_bias)
    row, column = ref.pair_lse(x, y, scale=20, x_bias=x_bias, y_bias=y_bias, direction="both")
    close(row, s.logsumexp(1), **EXACT)
    close(column, s.logsumexp(0), **EXACT)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_pair_lse_is_finite_at_every_temperature_and_input(rng, temperature):
    for make in (unit_rows, with_duplicates, with_zero_rows):
        x, y = make(rng, 9, 5), make(rng, 7, 5)
        row, _ = ref.pair_lse(x, y, scale=1 / temperature)
        close(row, torch.logsumexp(torch.from_numpy(x @ y.T) / temperature, 1), **EXACT)
    x, y = opposed_row(rng, 4, 6, 5)
    row, _ = ref.pair_lse(x, y, scale=1 / temperature)
    assert row[0] == pytest.approx(math.log(6) - 1 / temperature, rel=1e-12)


def test_direction_decides_what_is_returned():
    x = np.eye(3)
    assert ref.pair_lse(x, x)[1] is None
    assert ref.pair_lse(x, x, direction="column")[0] is None
    assert ref.nested_lse(x, x, [1, 3], direction="column")[0] is None


@given(seed=seeds, M=sizes, N=sizes, ids_mode=st.sampled_from(["exclude", "only"]), skip=st.booleans())
def test_a_pair_is_kept_only_if_no_rule_takes_it_out(seed, M, N, ids_mode, skip):
    rng = np.random.default_rng(seed)
    x_ids, y_ids, listed = rng.integers(0, 3, M), rng.integers(0, 3, N), rng.random((M, N)) < 0.3
    out = ref.left_out(M, N, x_ids=x_ids, y_ids=y_ids, ids_mode=ids_mode, exclude=csr(listed), skip_diagonal=skip)
    for i in range(M):
        for j in range(N):
            by_id = (x_ids[i] == y_ids[j]) == (ids_mode == "exclude")
            assert out[i, j] == (by_id or listed[i, j] or (skip and i == j))


def test_a_column_listed_twice_is_left_out_once():
    out = ref.left_out(2, 3, exclude=([0, 3, 3], [1, 1, 2]))
    np.testing.assert_array_equal(out, [[False, True, True], [False, False, False]])


def test_empty_rows_and_columns_are_minus_infinity(rng):
    x, y = unit_rows(rng, 3, 4), unit_rows(rng, 2, 4)
    row, column = ref.pair_lse(x, y, exclude=([0, 2, 3, 4], [0, 1, 1, 1]), direction="both")
    assert row[0] == -INF and np.isfinite(row[1:]).all()
    assert column[1] == -INF and np.isfinite(column[0])
    for M, N in ((0, 2), (3, 0), (0, 0)):
        row, column = ref.pair_lse(x[:M], y[:N], direction="both")
        np.testing.assert_array_equal(row, np.full(M, -INF))
        np.testing.assert_array_equal(column, np.full(N, -INF))


@given(seed=seeds, shift=st.floats(-500, 500))
def test_a_bias_on_one_side_shifts_the_lse(seed, shift):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    plain, _ = ref.pair_lse(x, y)
    shifted, _ = ref.pair_lse(x, y, y_bias=np.full(6, shift))
    close(shifted, plain + shift, rtol=1e-12, atol=1e-10)


@given(seed=seeds, N=sizes, copies=st.integers(1, 5))
def test_lse_ignores_the_order_of_keys_and_counts_duplicates(seed, N, copies):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(3, 4)), rng.normal(size=(N, 4))
    plain, _ = ref.pair_lse(x, y, scale=5)
    permuted, _ = ref.pair_lse(x, rng.permutation(y), scale=5)
    repeated, _ = ref.pair_lse(x, np.tile(y, (copies, 1)), scale=5)
    close(permuted, plain, **EXACT)
    close(repeated, plain + math.log(copies), **EXACT)


@pytest.mark.parametrize("normalize", [True, False])
def test_nested_lse_is_pair_lse_of_each_prefix(rng, normalize):
    x, y, dims = rng.normal(size=(5, 8)), rng.normal(size=(7, 8)), [2, 8, 3]
    rows, columns = ref.nested_lse(x, y, dims, scale=9.0, normalize=normalize, direction="both")
    assert rows.shape == (3, 5) and columns.shape == (3, 7)
    for row, column, d in zip(rows, columns, dims, strict=True):
        a, b = tensors(x[:, :d], y[:, :d])
        s = 9.0 * (F.normalize(a) @ F.normalize(b).T if normalize else a @ b.T)
        close(row, s.logsumexp(1), **EXACT)
        close(column, s.logsumexp(0), **EXACT)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_both_links_are_cross_entropy(rng, reduction, temperature):
    x, y = unit_rows(rng, 6, 5), unit_rows(rng, 9, 5)
    s, own = torch.from_numpy(x @ y.T) / temperature, rng.integers(0, 9, 6)
    target = s[torch.arange(6), torch.from_numpy(own)].numpy()
    expected = F.cross_entropy(s, torch.from_numpy(own), reduction=reduction)
    options = {"scale": 1 / temperature, "reduction": reduction}
    close(ref.pair_nll(x, y, target, **options), expected, **EXACT)
    kept_out = (np.arange(7), own)
    close(ref.pair_nll(x, y, target, link="softplus", exclude=kept_out, **options), expected, **EXACT)


def test_without_a_target_the_partner_is_taken_out_and_added_back(rng):
    x, y, x_bias, y_bias = rng.normal(size=(4, 3)), rng.normal(size=(6, 3)), rng.normal(size=4), rng.normal(size=6)
    s = torch.from_numpy(2 * x @ y.T + x_bias[:, None] + y_bias)
    biases = {"scale": 2.0, "x_bias": x_bias, "y_bias": y_bias}
    close(ref.pair_nll(x, y, None, link="softplus", **biases), F.cross_entropy(s, torch.arange(4)), **EXACT)
    others = s.masked_fill(torch.eye(4, 6, dtype=torch.bool), -INF)
    decoupled = (others.logsumexp(1) - s.diagonal()).mean()
    close(ref.pair_nll(x, y, None, link="lse", **biases), decoupled, **EXACT)


@pytest.mark.parametrize("link", ["lse", "softplus"])
def test_a_row_without_a_kept_pair_has_loss_zero(link):
    x = np.eye(2)
    loss = ref.pair_nll(x, x, [5.0, 0.0], link=link, exclude=([0, 2, 2], [0, 1]), reduction="none")
    assert loss[0] == 0 and loss[1] > 0


def test_weights_scale_rows_and_zero_means_absent(rng):
    x, y, w = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), np.array([2.0, 0.0, 0.5, 1.0])
    rows = ref.pair_nll(x, y, None, reduction="none")
    x[1] = np.nan
    close(ref.pair_nll(x, y, None, weight=w, reduction="none"), w * rows, **EXACT)
    close(ref.pair_nll(x, y, None, weight=w, reduction="sum"), w @ rows, **EXACT)
    close(ref.pair_nll(x, y, None, weight=w), w @ rows / w.sum(), **EXACT)
    assert ref.pair_nll(x, y, None, weight=np.zeros(4)) == 0
    assert ref.pair_nll(x[:0], y, None) == 0


def test_softplus_keeps_its_accuracy_at_both_ends(rng):
    z = np.array([-INF, -700.0, -40.0, -1e-9, 0.0, 19.0, 21.0, 700.0])
    close(ref.softplus(z), -F.logsigmoid(-torch.from_numpy(z)), rtol=1e-15, atol=0)
    close(twin.softplus(torch.from_numpy(z)), ref.softplus(z), rtol=1e-15, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_pair_softplus_sums_logsigmoid_over_kept_pairs(rng, reduction):
    x, y, ids = rng.normal(size=(5, 3)), rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
    s = torch.from_numpy(3 * x @ y.T - 1)
    rows = -F.logsigmoid(-s).masked_fill(torch.from_numpy(ids[:5, None] == ids), 0).sum(1)
    expected = {"none": rows, "sum": rows.sum(), "mean": rows.sum() / 5}[reduction]
    got = ref.pair_softplus(x, y, scale=3, y_bias=np.full(7, -1.0), x_ids=ids[:5], y_ids=ids, reduction=reduction)
    close(got, expected, **EXACT)


# --- top-k and statistics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("M", "N", "D"), REGIMES)
def test_pair_topk_is_torchs_topk(rng, M, N, D):
    x, y, a, b = unit_rows(rng, M, D), unit_rows(rng, N, D), rng.normal(size=N), rng.normal(size=N)
    k = min(N, 10)
    values, ids = torch.from_numpy(x @ y.T * a + b).topk(k)
    got = ref.pair_topk(x, y, k, y_scale=a, y_bias=b)
    close(got.scores, values, **EXACT)
    np.testing.assert_array_equal(got.ids, ids)
    assert got.ids.dtype == np.int64


def test_topk_breaks_ties_by_the_smaller_id_and_pads():
    y = np.array([[1.0], [2.0], [1.0], [2.0]])
    got = ref.pair_topk([[1.0], [-1.0], [0.0]], y, 6, y_bias=[0, 0, 0, 0], exclude=([0, 1, 1, 2], [1, 0]))
    np.testing.assert_array_equal(got.ids, [[3, 0, 2, -1, -1, -1], [0, 2, 1, 3, -1, -1], [1, 2, 3, -1, -1, -1]])
    np.testing.assert_array_equal(got.scores[0], [2, 1, 1, -INF, -INF, -INF])


def test_a_score_of_minus_infinity_is_never_returned():
    got = ref.pair_topk([[1.0]], [[1.0], [2.0]], 2, y_bias=[0.0, -INF])
    np.testing.assert_array_equal(got.ids, [[0, -1]])


@pytest.mark.parametrize(("M", "N", "D"), REGIMES)
def test_pair_stats_are_torchs(rng, M, N, D):
    bank, y, betas, ks = unit_rows(rng, M, D), unit_rows(rng, N, D), (1.0, 20.0), (1, min(M, 7))
    s = torch.from_numpy(bank @ y.T)
    got = ref.pair_stats(bank, y, betas=betas, ks=ks)
    close(got.lse, torch.stack([(beta * s).logsumexp(0) for beta in betas]), **EXACT)
    close(got.topk_mean, torch.stack([s.topk(k, dim=0).values.mean(0) for k in ks]), **EXACT)
    close(got.mean, s.mean(0), **EXACT)
    close(got.var, s.var(0, correction=0), **EXACT)
    assert got.count == M


def test_a_k_above_the_bank_raises_unless_the_bank_is_a_block(rng):
    bank, y = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    with pytest.raises(ValueError, match=r"ks: at most the 3 rows of the bank, got 5"):
        ref.pair_stats(bank, y, ks=(2, 5))
    block = ref.pair_stats(bank, y, ks=(2, 5), partial=True)
    with pytest.raises(ValueError, match=r"ks"):
        _ = block.topk_mean
    assert ref.merge_stats(block, block).topk_mean.shape == (2, 4)


def test_statistics_not_asked_for_are_empty(rng):
    got = ref.pair_stats(rng.normal(size=(3, 2)), rng.normal(size=(4, 2)))
    assert got.lse.shape == got.topk_mean.shape == (0, 4)


# --- merges -----------------------------------------------------------------------------------------------------------


def assert_same_stats(a: ref.Stats, b: ref.Stats) -> None:
    assert (a.count, a.betas, a.ks) == (b.count, b.betas, b.ks)
    for name in ("lse", "mean", "var", "top"):
        close(getattr(a, name), getattr(b, name), **EXACT)


def assert_same_topk(a: ref.TopK, b: ref.TopK) -> None:
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.scores, b.scores)


def topk_block(x, y, k, start, stop):
    block = ref.pair_topk(x, y[start:stop], k)
    return ref.TopK(block.scores, np.where(block.ids < 0, -1, block.ids + start))


@st.composite
def split_jobs(draw):
    """x, y, small integers so that ties are common and scores exact, and two cuts of y into three blocks."""
    rng = np.random.default_rng(draw(seeds))
    N = draw(st.integers(0, 14))
    x, y = rng.integers(-2, 3, (4, 2)).astype(float), rng.integers(-2, 3, (N, 2)).astype(float)
    cuts = sorted([draw(st.integers(0, N)), draw(st.integers(0, N))])
    return x, y, [0, *cuts, N]


def merged_both_ways(merge, a, b, c):
    return merge(merge(a, b), c), merge(a, merge(b, c)), merge(c, merge(b, a))


@given(job=split_jobs())
def test_lse_of_any_split_merges_to_the_whole_in_any_order(job):
    x, y, cuts = job
    whole, _ = ref.pair_lse(x, y)
    parts = [ref.pair_lse(x, y[a:b])[0] for a, b in itertools.pairwise(cuts)]
    for merged in merged_both_ways(ref.merge_lse, *parts):
        close(merged, whole, **EXACT)
    for merged in merged_both_ways(twin.merge_lse, *tensors(*parts)):
        close(merged, whole, **EXACT)


@given(job=split_jobs(), k=st.integers(1, 8))
def test_topk_of_any_split_merges_to_the_whole_in_any_order(job, k):
    x, y, cuts = job
    parts = [topk_block(x, y, k, a, b) for a, b in itertools.pairwise(cuts)]
    for merged in merged_both_ways(ref.merge_topk, *parts):
        assert_same_topk(merged, ref.pair_topk(x, y, k))


@given(job=split_jobs(), k=st.integers(1, 8))
def test_stats_of_any_split_of_the_bank_merge_to_the_whole_in_any_order(job, k):
    y, bank, cuts = job
    options = {"betas": (0.5, 3.0), "ks": (1, k), "partial": True}
    parts = [ref.pair_stats(bank[a:b], y, **options) for a, b in itertools.pairwise(cuts)]
    for merged in merged_both_ways(ref.merge_stats, *parts):
        assert_same_stats(merged, ref.pair_stats(bank, y, **options))


def test_the_specification_needs_neither_torch_nor_triton():
    blocked = "import sys; sys.modules.update(torch=None, triton=None); import simtile.kernels.reference_losses"
    package = str(Path(ref.__file__).parents[2])
    subprocess.run([sys.executable, "-c", blocked], check=True, env={**os.environ, "PYTHONPATH": package})
