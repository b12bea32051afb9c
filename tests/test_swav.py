"""Sinkhorn potentials against the normalised matrix, and SwAV against the authors' form."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn.functional import normalize

import dense_losses as dense
from loss_checks import LargestTensor, assert_equals_dense, assert_gradcheck, drawn
from plain_torch import gradients
from simtile.losses import SwAVLoss
from simtile.self_supervised import sinkhorn, swav

PLANS = ("dense", "recompute")


def unit(rng, *shapes):
    return [normalize(part, dim=1) for part in drawn(rng, *shapes)]


def assignment(x, y, potentials, epsilon):
    return (x.double() @ y.double().T / epsilon + potentials.row.double()[:, None] + potentials.column.double()).exp()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_rows_sum_to_one_after_any_number_of_iterations_and_equal_the_normalised_matrix(rng, plan, iterations):
    x, y = unit(rng, (40, 6), (13, 6))
    found = assignment(x, y, sinkhorn(x, y, epsilon=0.1, iterations=iterations, plan=plan), 0.1)
    torch.testing.assert_close(found.sum(1), torch.ones(40).double(), rtol=1e-13, atol=0)
    torch.testing.assert_close(found, dense.sinkhorn_assignment(x @ y.T, 0.1, iterations), rtol=1e-11, atol=0)


@pytest.mark.parametrize("plan", PLANS)
def test_marginals_converge_to_any_masses(rng, plan):
    x, y = unit(rng, (30, 5), (11, 5))
    rows = torch.from_numpy(rng.uniform(0.1, 3.0, 30))
    columns = torch.from_numpy(rng.uniform(0.1, 3.0, 11))
    columns = columns * rows.sum() / columns.sum()
    away = []
    for iterations in (1, 5, 25, 125):
        how = {"epsilon": 0.3, "iterations": iterations, "plan": plan}
        found = assignment(x, y, sinkhorn(x, y, row_mass=rows, column_mass=columns, **how), 0.3)
        torch.testing.assert_close(found.sum(1), rows, rtol=1e-12, atol=0)
        away.append(float((found.sum(0) - columns).abs().max()))
    assert away[0] > 1e-3 and away[-1] < 1e-12 and away == sorted(away, reverse=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("plan", PLANS)
def test_assignments_are_finite_where_exponentials_overflow(rng, dtype, plan):
    """exp(1 / 0.05) = 4.9e8 is no float16, exp(1 / 0.005) = 7e86 no float32; and rows need not be of unit length."""
    x, y = (part.to(dtype) for part in unit(rng, (50, 16), (20, 16)))
    for epsilon, length in ((0.05, 1.0), (0.005, 1.0), (0.05, 30.0)):
        long = x * length
        found = sinkhorn(long, y, epsilon=epsilon, plan=plan)
        exact = sinkhorn(long.double(), y.double(), epsilon=epsilon)
        for got, want in zip(found, exact, strict=True):
            assert got.dtype == torch.float32 and torch.isfinite(got).all()
            torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=2e-6 * length / epsilon)


def test_an_empty_side_has_potentials_of_zero():
    for shape in ((0, 3), (3, 0)):
        found = sinkhorn(torch.ones(shape[0], 2), torch.ones(shape[1], 2))
        assert [len(part) for part in found] == list(shape) and not torch.cat(found).any()


@pytest.mark.parametrize(("views", "assigning", "queue"), [(2, 2, 0), (4, 2, 0), (2, 2, 30), (2, 1, 0), (3, 3, 7)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_the_authors_form(rng, views, assigning, queue, reduction):
    B, D, K = 17, 6, 9
    crops = drawn(rng, *[(B, D)] * views, (K, D))
    queues = unit(rng, *[(queue, D)] * assigning) if queue else None
    options = {
        "assigning": assigning, "reduction": reduction, "iterations": 3,
        "weight": torch.from_numpy(rng.uniform(0.5, 2, B)),
        "queues": None if queues is None else [part.float() for part in queues],
    }  # fmt: skip
    assert_equals_dense(
        lambda *inputs, **how: swav(inputs[:-1], inputs[-1], **options, **how),
        functools.partial(dense.swav, **options),
        crops, plans=("auto", "recompute") if reduction == "none" else ("auto", "recompute", "chunked"),
        rows=1 if reduction == "mean" else B,
    )  # fmt: skip


def test_gradcheck(rng):
    """At given assignments, which are constants: three views, of which the first is assigned and not differentiated."""
    first, *rest = drawn(rng, (5, 3), (5, 3), (5, 3), (4, 3))
    prototypes = rest.pop()

    def loss(a, b, **how):
        return swav([first, a, b], prototypes, assigning=1, **how)

    assert_gradcheck(loss, rest)


def test_no_scores_and_no_assignments_are_stored(rng):
    """2,048 rows and a queue of as many against 2,048 prototypes of width 8: 4M and 8M scores."""
    a, b, c, q = (part.float().requires_grad_() for part in drawn(rng, *[(2048, 8)] * 4))
    with LargestTensor() as largest:
        swav([a, b], c, queues=[q, q]).backward()
    assert 0 < largest.elements <= 1_400_000  # 4 MiB of a teacher's weights, and what else is a vector a row


def test_prototypes_that_all_rows_prefer_share_them(rng):
    """What balance is for: scores that favour one column still give each column its share."""
    x, y = unit(rng, (64, 4), (8, 4))
    x = normalize(x + 2 * y[0], dim=1)
    raw = torch.softmax(x @ y.T / 0.05, 1).sum(0)
    found = assignment(x, y, sinkhorn(x, y, iterations=200), 0.05).sum(0)
    assert raw.max() > 40
    torch.testing.assert_close(found, torch.full((8,), 8.0).double(), rtol=1e-3, atol=0)


def test_the_module_learns_its_prototypes_and_fills_its_queues_in_training_only(rng):
    torch.manual_seed(0)
    loss = SwAVLoss(6, prototypes=5, queue=20)
    views = [part.float() for part in drawn(rng, (12, 6), (12, 6))]
    assert torch.equal(loss.eval()(views), swav(views, loss.prototypes))
    assert [queue.filled for queue in loss.queues] == [0, 0]
    loss.train()(views)
    assert not any(queue.full for queue in loss.queues)
    loss(views).backward()
    assert all(queue.full for queue in loss.queues) and loss.prototypes.grad.abs().max() > 0
    queues = [queue.keys().clone() for queue in loss.queues]
    assert torch.equal(loss(views), swav(views, loss.prototypes, queues=queues))
    assert "epsilon=0.05" in repr(loss)
    other = SwAVLoss(6, prototypes=5, queue=20)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.eval()(views), loss.eval()(views))


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_hardly_any_rows_are_finite(rows):
    views = [torch.ones(rows, 3, requires_grad=True) for _ in range(2)]
    loss = swav(views, torch.eye(3))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(part).all() for part in gradients(loss, views))


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    for wrong, message in (
        ({"views": [x]}, "views: a sequence of at least 2"),
        ({"views": [x, torch.ones(4, 2)]}, r"views\[1\]: 3 rows, got 4"),
        ({"assigning": 3}, "assigning: from 1 to the number of views, 2, got 3"),
        ({"queues": [x]}, "queues: one for each of the 2"),
        ({"epsilon": 0.0}, "epsilon: above 0"),
        ({"iterations": 0}, "iterations: at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            swav(**{"views": [x, x], "prototypes": x, **wrong})
    with pytest.raises(ValueError, match="column_mass: floating point, shape"):
        sinkhorn(x, x, column_mass=torch.ones(2))
