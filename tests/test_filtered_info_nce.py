"""Filtered InfoNCE against its equations: guides, margins, blocks."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck
from simtile._losses.filtered import BLOCKS
from simtile.functional import filtered_info_nce, info_nce


def drawn(rng, *shapes):
    return [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]


CASES = {
    "gist": {"margin": 0.05, "blocks": ("query_key", "query_query", "key_key")},
    "gist-relative": {"margin": 0.1, "relative": True},
    "qwen3": {"margin": -0.1, "blocks": ("query_key", "query_query", "key_key")},
    "gte": {"margin": None, "blocks": BLOCKS},
    "ids": {"blocks": BLOCKS, "ids": (torch.arange(19) % 7, torch.arange(26) % 5)},
}


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_equals_its_equation(rng, case, guided, reduction):
    M, N = 19, 26
    q, k, f, g = drawn(rng, (M, 6), (N, 6), (M, 5), (N, 5))
    options = {
        **CASES[case], "guide": (f, g) if guided else None, "reduction": reduction,
        "weight": torch.from_numpy(rng.uniform(0.5, 2, M)),
    }  # fmt: skip
    given = dict(options)
    if given.pop("relative", False):
        given["margin_strategy"] = "relative"
    if "ids" in given:
        given["query_ids"], given["key_ids"] = given.pop("ids")
    assert_equals_dense(
        functools.partial(filtered_info_nce, **given), functools.partial(dense.filtered_info_nce, **options), [q, k],
        rows=1 if reduction == "mean" else M,
    )  # fmt: skip


def test_gradcheck(rng):
    q, k, f, g = drawn(rng, (4, 3), (5, 3), (4, 2), (5, 2))
    for how in ({"guide": (f, g)}, {"margin": None, "blocks": BLOCKS}):
        assert_gradcheck(functools.partial(filtered_info_nce, **how), [q, k])


def test_nothing_filtered_is_info_nce(rng):
    q, k = drawn(rng, (7, 4), (9, 4))
    for margin in (None, -3.0):
        torch.testing.assert_close(
            filtered_info_nce(q, k, margin=margin), info_nce(q, k, temperature=0.05), rtol=1e-12, atol=0
        )


def test_a_duplicate_of_the_positive_biases_by_log_two_unless_filtered():
    """Perfect pairs, far from everything else: a copy of its key counts as a negative and costs each query log 2."""
    q = torch.eye(8, dtype=torch.float64)
    twice = torch.cat([q, q])
    loss = info_nce(q, twice, temperature=0.01)
    torch.testing.assert_close(loss, torch.tensor(2.0).double().log(), rtol=1e-12, atol=0)
    assert filtered_info_nce(q, twice, temperature=0.01, margin=1e-6) < 1e-40


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    for wrong, message in (
        ({"blocks": ("query_query",)}, "blocks: 'query_key' and others"),
        ({"blocks": ("query_key", "keys")}, "blocks: one of"),
        ({"margin_strategy": "both"}, "margin_strategy: one of"),
        ({"guide": (x, torch.ones(4, 2))}, r"guide\[1\]: 3 rows, got 4"),
        ({"key": torch.ones(2, 2)}, "key: at least as many rows as query, 3, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            filtered_info_nce(**{"query": x, "key": x, **wrong})
    with pytest.raises(TypeError, match="guide: a pair of tensors"):
        filtered_info_nce(x, x, guide=x)
