"""The NumPy specification of the losses against independent float64 torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from accuracy import saturated_pairs, tensors, unit_rows
from simtile.kernels.reference_losses import info_nce, sigmoid_loss

# A few ulp of sums whose order is not that of torch; a wrong definition is off by far more.
close = np.testing.assert_allclose
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_is_cross_entropy_of_the_logits(rng, symmetric, smoothing, reduction):
    query, key = rng.normal(size=(5, 4)), rng.normal(size=(7, 4))
    negatives, private, own = rng.normal(size=(3, 4)), rng.normal(size=(5, 2, 4)), rng.permutation(7)[:5]
    q, k, n, p = (F.normalize(t, dim=-1) for t in tensors(query, key, negatives, private))
    logits = torch.cat([q @ k.T, q @ n.T, torch.einsum("md,mkd->mk", q, p)], dim=1) / 0.1
    expected = F.cross_entropy(logits, torch.from_numpy(own), reduction=reduction, label_smoothing=smoothing)
    if symmetric:
        columns = logits[:, own].T
        expected += F.cross_entropy(columns, torch.arange(5), reduction=reduction, label_smoothing=smoothing)
        expected /= 2
    got = info_nce(
        query, key, temperature=0.1, symmetric=symmetric, targets=own, negatives=negatives, row_negatives=private,
        label_smoothing=smoothing, reduction=reduction,
    )  # fmt: skip
    close(got, expected, **EXACT)


def test_info_nce_by_default_pairs_row_i_with_row_i(rng):
    query, key = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    close(info_nce(query, key), info_nce(query, key, targets=np.arange(4)), rtol=0, atol=0)
    q, k = tensors(query, key)
    logits = 2 * q @ k.T
    both = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits[:, :4].T, torch.arange(4))) / 2
    close(info_nce(query, key, temperature=0.5, normalize=False, symmetric=True), both, **EXACT)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_equal_ids_take_false_negatives_out_but_never_the_own_pair(rng, symmetric, smoothing):
    query, key, ids = unit_rows(rng, 5, 4), unit_rows(rng, 7, 4), np.array([0, 0, 1, 2, 1, 0, 3])
    s = torch.from_numpy(query @ key.T) / 0.07
    drop = torch.from_numpy(ids[:5, None] == ids) & ~torch.eye(5, 7, dtype=torch.bool)

    def loss(s, drop):  # the kept candidates of each row alone, so that torch smooths over them
        rows = [torch.cat([s[i, i : i + 1], s[i, ~drop[i] & (torch.arange(s.shape[1]) != i)]]) for i in range(5)]
        return sum(F.cross_entropy(row[None], torch.tensor([0]), label_smoothing=smoothing) for row in rows) / 5

    expected = loss(s, drop) if not symmetric else (loss(s, drop) + loss(s[:, :5].T, drop[:, :5].T)) / 2
    options = {"symmetric": symmetric, "label_smoothing": smoothing}
    close(info_nce(query, key, query_ids=ids[:5], key_ids=ids, **options), expected, **EXACT)
    alone = info_nce(query, key, query_ids=np.zeros(5), key_ids=np.zeros(7), **options)
    close(alone, 0, **EXACT)


def test_a_query_with_the_same_target_counts_in_the_column_unless_ids_take_it_out(rng):
    query, key, own = unit_rows(rng, 3, 4), unit_rows(rng, 3, 4), np.array([1, 1, 2])
    s = torch.from_numpy(query @ key.T) / 0.07
    options = {"targets": own, "symmetric": True, "reduction": "none"}
    rows = F.cross_entropy(s, torch.from_numpy(own), reduction="none")
    columns = F.cross_entropy(s[:, own].T, torch.arange(3), reduction="none")
    close(info_nce(query, key, **options), (rows + columns) / 2, **EXACT)
    ids = {"query_ids": [7, 7, 8], "key_ids": [0, 7, 8]}
    first_two_alone = torch.stack([s[i, 1] - torch.logsumexp(s[[i, 2], 1], 0) for i in (0, 1)])
    got = info_nce(query, key, **options, **ids)
    close(got[:2], (rows[:2] - first_two_alone) / 2, **EXACT)


def test_info_nce_keeps_its_accuracy_when_the_loss_is_tiny(rng):
    query, key = saturated_pairs(rng, 8, 16)
    loss = info_nce(query, key, temperature=0.005, reduction="none")
    s = (query @ key.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(key, axis=1)) / 0.005
    odds = np.exp(s - np.diagonal(s)[:, None])
    np.fill_diagonal(odds, 0)
    assert loss.max() < 1e-9 and loss.min() > 0
    close(loss, np.log1p(odds.sum(axis=1)), rtol=1e-10, atol=0)


def test_info_nce_weights(rng):
    query, key, w = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), np.array([1.0, 0.0, 3.0, 0.5])
    rows = info_nce(query, key, symmetric=True, reduction="none")
    close(info_nce(query, key, symmetric=True, weight=w), w @ rows / w.sum(), **EXACT)


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize(("M", "N"), [(5, 5), (4, 7), (7, 4)])
def test_sigmoid_loss_is_siglips(rng, M, N, with_ids):
    query, key = rng.normal(size=(M, 3)), rng.normal(size=(N, 3))
    ids = {"query_ids": rng.integers(0, 4, M), "key_ids": rng.integers(0, 4, N)} if with_ids else {}
    q, k = (F.normalize(t) for t in tensors(query, key))
    positive = torch.eye(M, N, dtype=torch.bool)
    if with_ids:
        positive |= torch.from_numpy(ids["query_ids"][:, None] == ids["key_ids"])
    z = torch.where(positive, 1.0, -1.0).double()
    rows = -F.logsigmoid(z * (10 * q @ k.T - 10)).sum(1)
    close(sigmoid_loss(query, key, **ids), rows.sum() / M, **EXACT)
    close(sigmoid_loss(query, key, reduction="sum", **ids), rows.sum(), **EXACT)
    close(sigmoid_loss(query, key, reduction="none", **ids), rows, **EXACT)
