"""NT-Xent against its equation; G-SimCLR's exclusion; what it equals."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck
from simtile.functional import info_nce, nt_xent
from simtile.kernels import reference_losses as ref


def drawn(rng, *shapes):
    return [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("B", [1, 2, 37])
def test_equals_its_equation(rng, B, reduction, labelled):
    a, b = drawn(rng, (B, 8), (B, 8))
    options = {"reduction": reduction, "weight": torch.from_numpy(rng.uniform(0.5, 2, B))}
    if labelled:
        options["labels"] = torch.from_numpy(rng.integers(0, 5, B))
    plans = ("dense", "recompute", "chunked")[: 2 if reduction == "none" else 3]
    assert_equals_dense(
        functools.partial(nt_xent, **options), functools.partial(dense.nt_xent, **options), (a, b), plans=plans,
        rows=1 if reduction == "mean" else B,
    )  # fmt: skip


@pytest.mark.parametrize("labelled", [False, True])
def test_without_weights_every_plan_equals_its_equation(rng, labelled):
    """Stored scores of the views with themselves; tiles that compute a pair once; InfoNCE of both orders."""
    options = {"labels": torch.from_numpy(rng.integers(0, 20, 37))} if labelled else {}
    assert_equals_dense(
        functools.partial(nt_xent, **options), functools.partial(dense.nt_xent, **options),
        drawn(rng, (37, 8), (37, 8)), plans=("auto", "dense", "recompute", "chunked"),
    )  # fmt: skip


def test_gradcheck(rng):
    assert_gradcheck(nt_xent, drawn(rng, (4, 3), (4, 3)))


def test_unique_labels_change_nothing(rng):
    a, b = drawn(rng, (9, 5), (9, 5))
    assert torch.equal(nt_xent(a, b, labels=torch.arange(9)), nt_xent(a, b))


def test_it_is_info_nce_whose_self_pairs_are_masked(rng):
    a, b = drawn(rng, (6, 4), (6, 4))
    z, turned = torch.cat([a, b]), torch.cat([b, a])
    ids = torch.arange(12)
    want = ref.info_nce(z.numpy(), turned.numpy(), temperature=0.1, query_ids=ids, key_ids=ids.roll(6))
    np.testing.assert_allclose(nt_xent(a, b), want, rtol=1e-12)
    assert nt_xent(a, b) == info_nce(z, turned, temperature=0.1, query_ids=ids, key_ids=ids.roll(6))


def test_pseudo_labels_take_out_exactly_their_clusters(rng):
    """Of two clusters of one item each nothing changes; with a single cluster no negative is left."""
    a, b = drawn(rng, (4, 3), (4, 3))
    assert nt_xent(a, b, labels=torch.zeros(4, dtype=torch.long)) == 0


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    for wrong, message in (
        ({"view_b": torch.ones(4, 2)}, "view_b: as many rows as view_a, 3, got 4"),
        ({"labels": torch.arange(6)}, r"labels: shape \(3,\)"),
        ({"temperature": 0.0}, "temperature: a finite number above 0"),
        ({"reduction": "avg"}, "reduction: one of"),
    ):
        with pytest.raises(ValueError, match=message):
            nt_xent(**{"view_a": x, "view_b": x, **wrong})
