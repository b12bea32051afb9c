"""InfoNCE: every option against the specification, saturation, accuracy, padding, the work that is not done."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from accuracy import TEMPERATURES, assert_as_accurate, rounded, unit_rows
from plain_torch import coarse, gradients, rounding
from simtile import _cpu_engine
from simtile.functional import in_batch_accuracy, in_batch_rank, info_nce
from simtile.kernels import reference as ref, reference_losses, reference_torch as twin

M, N, D = 23, 31, 16


def options(rng, *, targets=False, negatives=False, row_negatives=False, ids=False, weight=False):
    """A random choice of arguments, as float64 and integer tensors."""
    found = {}
    if targets:
        found["targets"] = rng.integers(0, N, M)
    if negatives:
        found["negatives"] = rng.normal(size=(7, D))
    if row_negatives:
        found["row_negatives"] = rng.normal(size=(M, 3, D))
    if ids:
        found["query_ids"], found["key_ids"] = rng.integers(0, 6, M), rng.integers(0, 6, N)
    if weight:
        found["weight"] = rng.integers(0, 3, M).astype(float)
    return {name: torch.from_numpy(value) for name, value in found.items()}


def in_dtype(arguments, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in arguments.items()}


SWITCHES = ("targets", "negatives", "row_negatives", "ids", "weight")


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_combination_of_options_equals_the_specification(rng, symmetric, smoothing, reduction):
    for switches in itertools.product([False, True], repeat=len(SWITCHES)):
        q, k = rng.normal(size=(M, D)), rng.normal(size=(N, D))
        extra = options(rng, **dict(zip(SWITCHES, switches, strict=True)))
        fixed = {"temperature": 0.1, "symmetric": symmetric, "label_smoothing": smoothing, "reduction": reduction}
        want = reference_losses.info_nce(q, k, **fixed, **{name: value.numpy() for name, value in extra.items()})
        plans = ("dense", "recompute", "chunked")[: 2 if symmetric or reduction == "none" else 3]
        exact = None
        for dtype, plan in itertools.product((torch.float64, torch.float32), plans):
            tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 5e-6}
            query, key = (torch.from_numpy(part).to(dtype).requires_grad_() for part in (q, k))
            loss = info_nce(query, key, plan=plan, **fixed, **in_dtype(extra, dtype))
            np.testing.assert_allclose(loss.detach(), want, **tolerance, err_msg=f"{extra.keys()} {plan}")
            found = gradients(loss.sum(), [query, key])
            exact = exact or found
            for got, truth in zip(found, exact, strict=True):
                size = float(truth.abs().max())
                np.testing.assert_allclose(got, truth, rtol=0, atol=size * (1e-10 if dtype == torch.float64 else 2e-5))


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradcheck_by_every_differentiable_argument(rng, symmetric):
    q, k, negatives, private = (
        torch.from_numpy(rng.normal(size=shape)).requires_grad_() for shape in ((4, 3), (6, 3), (2, 3), (4, 2, 3))
    )
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 0, 2, 1, 3])

    def everything(q, k, negatives, private, temperature):
        return info_nce(
            q, k, temperature=temperature, symmetric=symmetric, negatives=negatives, row_negatives=private,
            label_smoothing=0.1, query_ids=ids[0], key_ids=ids[1],
        )  # fmt: skip

    def plain(q, k, temperature, plan="auto", targets=None):
        return info_nce(q, k, temperature=temperature, symmetric=symmetric, plan=plan, targets=targets)

    assert torch.autograd.gradcheck(everything, (q, k, negatives, private, temperature))
    assert torch.autograd.gradcheck(plain, (q, k, temperature))
    assert torch.autograd.gradcheck(lambda *i: plain(*i, plan="recompute"), (q, k, temperature))
    assert torch.autograd.gradcheck(lambda *i: plain(*i, targets=torch.tensor([5, 0, 0, 2])), (q, k, temperature))


def plain(query, key, temperature, symmetric):
    """As everyone writes it; the product in the inputs' dtype."""
    q, k = torch.nn.functional.normalize(query), torch.nn.functional.normalize(key)
    s = (q @ k.T).to(torch.promote_types(q.dtype, torch.float32)) / temperature
    target = torch.arange(len(q))
    loss = torch.nn.functional.cross_entropy(s, target)
    return (loss + torch.nn.functional.cross_entropy(s.T, target)) / 2 if symmetric else loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("B", "D"), [(1, 1), (5, 3), (97, 45), (384, 64), (389, 129)])
def test_as_accurate_as_plain_torch(rng, B, D, symmetric, dtype):
    q, k = (rounded(rng.normal(size=(B, D)), dtype) for _ in range(2))

    def run(function, inputs, temperature):
        inputs = [part.clone().requires_grad_() for part in inputs]
        t = torch.tensor(temperature, dtype=torch.promote_types(inputs[0].dtype, torch.float32), requires_grad=True)
        loss = function(*inputs, t)
        return loss.detach(), gradients(loss, [*inputs, t])

    exact = run(lambda *i: plain(*i, symmetric), [torch.from_numpy(part) for _, part in (q, k)], 0.07)
    naive = run(lambda *i: plain(*i, symmetric), [q[0], k[0]], 0.07)
    plans = ["dense", "recompute", "stash" if symmetric else "chunked"]
    for plan in plans[: 2 if symmetric and dtype != torch.bfloat16 else 3]:
        mine = run(
            lambda *i, plan=plan: info_nce(*i[:2], temperature=i[2], symmetric=symmetric, plan=plan), [q[0], k[0]], 0.07
        )
        assert_as_accurate(mine[0], naive[0], exact[0].numpy(), magnitude=coarse(dtype) / 0.07)
        for got, bar, truth, x in zip(mine[1][:2], naive[1][:2], exact[1][:2], (q[1], k[1]), strict=True):
            assert got.dtype == dtype
            # Terms of a gradient before they cancel: 2 / (temperature * B) along unit rows, over the row's length.
            terms = 2 / (0.07 * B * np.linalg.norm(x, axis=1).min())
            assert_as_accurate(got, bar, truth.numpy(), magnitude=terms)
        assert_as_accurate(mine[1][2], naive[1][2], exact[1][2].numpy(), magnitude=coarse(dtype) * 2 / 0.07**2)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_as_accurate_as_plain_torch_at_every_temperature(rng, temperature, symmetric):
    q, k = (rounded(unit_rows(rng, 60, 24), torch.float32) for _ in range(2))

    def run(function, inputs):
        inputs = [part.clone().requires_grad_() for part in inputs]
        loss = function(*inputs)
        return loss.detach(), gradients(loss, inputs)

    exact = run(lambda *i: plain(*i, temperature, symmetric), [torch.from_numpy(part) for _, part in (q, k)])
    naive = run(lambda *i: plain(*i, temperature, symmetric), [q[0], k[0]])
    for plan in ("dense", "recompute") if symmetric else ("dense", "recompute", "chunked"):
        mine = run(
            lambda *i, plan=plan: info_nce(*i, temperature=temperature, symmetric=symmetric, plan=plan), [q[0], k[0]]
        )
        assert_as_accurate(mine[0], naive[0], exact[0].numpy(), magnitude=1 / temperature)
        for got, bar, truth in zip(mine[1], naive[1], exact[1], strict=True):
            # Only from scores in the hundreds on is one rounding of the largest coarser than plain torch's luck allows.
            coarser = rounding(1 / temperature) if temperature < 0.01 else 1.0
            assert_as_accurate(got, bar, truth.numpy(), magnitude=2 / (temperature * 60) * coarser)


def noise_for(loss: float, query: np.ndarray, noise: np.ndarray) -> float:
    """How much noise makes the two-sided loss at scale 100 about ``loss``, by bisection."""
    low, high = 1e-3, 1e2
    for _ in range(25):
        middle = np.sqrt(low * high)
        level = float(reference_losses.info_nce(query, query + middle * noise, temperature=0.01, symmetric=True))
        low, high = (middle, high) if level < loss else (low, middle)
    return low


@pytest.mark.parametrize("level", [1e-3, 1e-6, 1e-9])
def test_gradients_near_saturation(rng, level):
    rows, width = 1003, 768
    query, noise = unit_rows(rng, rows, width), unit_rows(rng, rows, width)
    keys = ref.unit(query + noise_for(level, query[:300], noise[:300]) * noise)
    for dtype, bar in ((torch.float32, 1e-4), (torch.bfloat16, 5e-3)):
        (q, exact_q), (k, exact_k) = rounded(query, dtype), rounded(keys, dtype)
        a, b = (torch.from_numpy(part).requires_grad_() for part in (exact_q, exact_k))
        s = a @ b.T * 100.0
        own = s.diagonal()
        off = s.masked_fill(torch.eye(rows, dtype=torch.bool), -torch.inf)
        loss = (twin.softplus(off.logsumexp(1) - own) + twin.softplus(off.logsumexp(0) - own)).mean() / 2
        exact = gradients(loss, [a, b])
        for plan in ("recompute", "stash") if dtype == torch.bfloat16 else ("recompute",):
            q.requires_grad_(), k.requires_grad_()
            got = info_nce(q, k, temperature=0.01, symmetric=True, normalize=False, plan=plan)
            for g, truth in zip(gradients(got, [q, k]), exact, strict=True):
                assert float((g.double() - truth).norm() / truth.norm()) < bar
            q.requires_grad_(False), k.requires_grad_(False)


@pytest.mark.parametrize("symmetric", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(rng, symmetric):
    q, k = (torch.from_numpy(rng.normal(size=(700, 40))).float().requires_grad_() for _ in range(2))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            plan = "recompute" if symmetric else "chunked"
            loss = info_nce(q, k, symmetric=symmetric, plan=plan)
            results.append((loss.detach(), *gradients(loss, [q, k])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_padded_queries_may_hold_anything(rng):
    q, k = torch.randn(6, 4), torch.randn(6, 4)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    for plan in ("dense", "recompute", "chunked"):
        results = []
        for padding in (0.0, torch.nan):
            rows = q.clone()
            rows[weight == 0] = padding
            rows.requires_grad_()
            loss = info_nce(rows, k, weight=weight, plan=plan)
            loss.backward()
            results.append((loss.detach(), rows.grad))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        assert (results[1][1][weight == 0] == 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("plan", ["dense", "recompute"])
def test_one_pair_alone_has_no_loss(symmetric, plan):
    q, k = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    loss = info_nce(q, k, symmetric=symmetric, plan=plan)
    loss.backward()
    assert loss == 0 and (q.grad == 0).all() and (k.grad == 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("plan", ["dense", "recompute"])
def test_zero_rows_and_an_empty_batch(symmetric, plan):
    q, k = torch.randn(5, 3), torch.randn(5, 3)
    q[0] = k[0] = k[1] = 0.0
    q.requires_grad_(), k.requires_grad_()
    info_nce(q, k, symmetric=symmetric, plan=plan).backward()
    assert torch.isfinite(q.grad).all() and torch.isfinite(k.grad).all()
    empty = torch.ones(0, 3, requires_grad=True)
    loss = info_nce(empty, empty, symmetric=symmetric, plan=plan)
    loss.backward()
    assert loss == 0 and empty.grad.shape == (0, 3)


class Spy:
    """Stands in for ``simtile._core`` and notes which gradients it is asked for."""

    def __init__(self, core):
        self.core, self.calls = core, []

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            self.calls.append((name, keywords.get("want_x"), keywords.get("want_y")))
            return getattr(self.core, name)(*arguments, **keywords)

        return call


@pytest.mark.parametrize(("query_learns", "key_learns"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_frozen_tower_costs_no_work(monkeypatch, query_learns, key_learns):
    spy = Spy(_cpu_engine._core)
    monkeypatch.setattr(_cpu_engine, "_core", spy)
    q, k = torch.randn(20, 4, requires_grad=query_learns), torch.randn(20, 4, requires_grad=key_learns)
    loss = info_nce(q, k, plan="chunked")
    assert spy.calls == [("pair_nll", query_learns, key_learns)]
    spy.calls.clear()
    two = info_nce(q, k, symmetric=True, plan="recompute")
    assert [name for name, _, _ in spy.calls] == ["pair_lse", "pair_dot"]
    spy.calls.clear()
    if query_learns or key_learns:
        (loss + two).backward()
        assert spy.calls == [("pair_grad", query_learns, key_learns)]
    spy.calls.clear()
    with torch.no_grad():
        info_nce(q, k, plan="chunked")
    assert spy.calls == [("pair_nll", False, False)]


def test_the_scale_alone_may_learn():
    q, k = torch.randn(20, 4), torch.randn(20, 4)
    found = []
    for plan in ("dense", "recompute", "chunked"):
        temperature = torch.tensor(0.1, requires_grad=True)
        info_nce(q, k, temperature=temperature, plan=plan).backward()
        found.append(temperature.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-6)


def test_ranks_and_accuracy(rng):
    q, k = rng.normal(size=(40, 8)), rng.normal(size=(50, 8))
    ids, key_ids = rng.integers(0, 8, 40), rng.integers(0, 8, 50)
    s = ref.scores(ref.unit(q), ref.unit(k))
    own = np.diagonal(s)[:, None]
    drop = ref.left_out(40, 50, x_ids=ids, y_ids=key_ids, skip_diagonal=True)
    want = ((s >= own) & ~drop).sum(1) + 1
    for dtype in (torch.float32, torch.float64):
        rank = in_batch_rank(
            torch.from_numpy(q).to(dtype), torch.from_numpy(k).to(dtype),
            query_ids=torch.from_numpy(ids), key_ids=torch.from_numpy(key_ids),
        )  # fmt: skip
        np.testing.assert_array_equal(rank, want)
    collapsed = torch.ones(6, 3)
    assert in_batch_accuracy(collapsed, collapsed) == 0
    assert in_batch_accuracy(torch.eye(6), torch.eye(6)) == 1
    assert in_batch_accuracy(collapsed, collapsed, top_k=6) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature: a finite number above 0, got 0"),
        ({"temperature": float("nan")}, ValueError, "temperature: a finite number above 0, got nan"),
        ({"temperature": "0.1"}, TypeError, "temperature: a number"),
        ({"key": torch.ones(2, 2)}, ValueError, "key: at least as many rows as query, 3, unless targets"),
        ({"key": torch.ones(3, 4)}, ValueError, "key: as many columns as query, 2"),
        ({"targets": torch.arange(2)}, ValueError, r"targets: shape \(3,\)"),
        ({"targets": torch.ones(3)}, TypeError, "targets: integers"),
        ({"negatives": torch.ones(3, 3)}, ValueError, "negatives: as many columns"),
        ({"row_negatives": torch.ones(2, 3, 2)}, ValueError, r"row_negatives: a Tensor \(M, K, D\) with M = 3"),
        ({"query_ids": torch.arange(3)}, ValueError, "key_ids: needed together with query_ids"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing: a number from 0 to 1"),
        ({"symmetric": 1}, TypeError, "symmetric: True or False"),
        ({"reduction": "avg"}, ValueError, "reduction: one of"),
        ({"process_group": object()}, TypeError, "process_group: a ProcessGroup, a DeviceMesh"),
        ({"symmetric": True, "plan": "chunked"}, ValueError, "plan: 'chunked' needs a reduced, one-sided loss"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        info_nce(**{"query": torch.ones(3, 2), "key": torch.ones(3, 2), **arguments})
