"""InfoNCE of several prefixes: equal to the sum of one loss a prefix, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch

from loss_checks import LargestTensor, drawn
from simtile.functional import info_nce, matryoshka_info_nce
from simtile.losses import MatryoshkaInfoNCELoss

DIMS, WEIGHTS = [24, 3, 10], [1.0, 0.5, 2.0]
GIVEN = {
    "plain": {},
    "ids": {"query_ids": torch.arange(40) % 7, "key_ids": torch.arange(53) % 11},
    "weighted, with padding": {"weight": torch.arange(40.0) % 3},
}


def inputs(dtype, N=53):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(rows, 24, generator=generator, dtype=torch.float64) for rows in (40, N))
    temperature = torch.tensor(0.2, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    return query.to(dtype).requires_grad_(), key.to(dtype).requires_grad_(), temperature


def one_by_one(query, key, temperature, **how):
    parts = [w * info_nce(query[:, :d], key[:, :d], temperature=temperature, **how)
             for d, w in zip(DIMS, WEIGHTS, strict=True)]  # fmt: skip
    return sum(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "two-sided"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN.keys())
def test_equals_the_sum_of_one_loss_a_prefix(given, reduction, symmetric, dtype):
    mine, exact = inputs(dtype), inputs(dtype)
    how = {"symmetric": symmetric, "reduction": reduction, **given}
    got = matryoshka_info_nce(mine[0], mine[1], DIMS, weights=WEIGHTS, temperature=mine[2], **how)
    wide = [part.detach().double().requires_grad_() for part in exact]
    want = one_by_one(*wide, **how)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 5e-3)
    torch.testing.assert_close(got.double(), want, rtol=min(tolerance, 1e-5), atol=min(tolerance, 1e-5))
    got.sum().backward()
    want.sum().backward()
    for a, b in zip(mine, wide, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=tolerance, atol=tolerance * float(b.grad.abs().max()))


@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "two-sided"])
def test_gradcheck(rng, symmetric):
    q, k = drawn(rng, (4, 5), (4, 5))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, t: matryoshka_info_nce(q, k, [2, 5], weights=[1.0, 0.5], temperature=t, symmetric=symmetric),
        [q.requires_grad_(), k.requires_grad_(), temperature],
    )


def test_no_matrix_of_all_pairs_is_made(rng):
    """2,048 pairs and 2 prefixes: 4M scores each, against 64 numbers a row."""
    q, k = (part.float().requires_grad_() for part in drawn(rng, (2048, 8), (2048, 8)))
    with LargestTensor() as largest:
        matryoshka_info_nce(q, k, [4, 8], symmetric=True).backward()
    assert 0 < largest.elements <= 64 * 2048


def test_a_padded_query_may_hold_anything():
    query, key, _ = inputs(torch.float32)
    weight = torch.ones(40)
    weight[3] = 0
    clean = matryoshka_info_nce(query, key, DIMS, weight=weight)
    with torch.no_grad():
        query[3] = float("nan")
    assert torch.equal(matryoshka_info_nce(query, key, DIMS, weight=weight), clean)


@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "two-sided"])
def test_saturated_rows_keep_their_relative_accuracy(symmetric):
    """A positive far above all others: p - 1 has no correct digit left at this loss."""
    x = torch.eye(16).requires_grad_()
    y = torch.eye(16).requires_grad_()
    got = matryoshka_info_nce(x, y, [16], temperature=0.05, symmetric=symmetric)
    got.backward()
    wide = torch.eye(16, dtype=torch.float64, requires_grad=True)
    want = info_nce(wide, torch.eye(16, dtype=torch.float64), temperature=0.05, symmetric=symmetric)
    want.backward()
    assert 0 < want < 1e-7
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-5, atol=0)


def test_compiled_without_graph_breaks_it_gives_the_same():
    for symmetric in (False, True):
        eager, compiled = inputs(torch.float32), inputs(torch.float32)
        want = matryoshka_info_nce(*eager[:2], DIMS, temperature=eager[2], symmetric=symmetric)
        torch._dynamo.reset()
        run = torch.compile(matryoshka_info_nce, fullgraph=True, backend="aot_eager")
        got = run(*compiled[:2], DIMS, temperature=compiled[2], symmetric=symmetric)
        torch.testing.assert_close(got, want)
        got.backward()
        want.backward()
        for a, b in zip(compiled, eager, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_the_module_is_the_function_and_learns_its_temperature():
    query, key, _ = inputs(torch.float32)
    loss = MatryoshkaInfoNCELoss(DIMS, WEIGHTS, temperature=0.2, learn_temperature=True, symmetric=True)
    got = loss(query, key)
    torch.testing.assert_close(
        got, matryoshka_info_nce(query, key, DIMS, weights=WEIGHTS, temperature=0.2, symmetric=True)
    )
    got.backward()
    assert loss.log_scale.grad != 0
    assert "dims=[24, 3, 10]" in repr(loss)


def test_second_derivatives_raise():
    for symmetric in (False, True):
        query, key, _ = inputs(torch.float32)
        loss = matryoshka_info_nce(query, key, DIMS, symmetric=symmetric)
        (grad,) = torch.autograd.grad(loss, query, create_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
            grad.pow(2).sum().backward()


def test_bits_do_not_depend_on_the_number_of_threads():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            query, key, _ = inputs(torch.float32)
            loss = matryoshka_info_nce(query, key, DIMS, symmetric=True) + matryoshka_info_nce(query, key, DIMS)
            loss.backward()
            found.append((loss.detach(), query.grad, key.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": torch.ones(1, 3)}, "key: at least as many rows as query, 2, got 1"),
        ({"weights": [1.0]}, "weights: one for each of the 2 dims, got 1"),
        ({"temperature": 0.0}, "temperature: a finite number above 0"),
        ({"reduction": "max"}, "reduction: one of"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        matryoshka_info_nce(**{"query": torch.ones(2, 3), "key": torch.ones(2, 3), "dims": [1, 3], **arguments})
