"""Hydra: gated subspaces against every key gated for every row."""

from __future__ import annotations

import functools

import pytest
import torch

import dense_losses as dense
from loss_checks import LargestTensor, assert_equals_dense, assert_gradcheck, drawn
from simtile.functional import gate_entropy, gated_info_nce, sup_con
from simtile.losses import HydraLoss, LabelGate


def classes(rng, M, N, n):
    return [torch.from_numpy(rng.integers(0, n, rows)) for rows in (M, M, N)]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_keys_gated_for_every_row(rng, reduction):
    M, N, D = 19, 27, 6
    x, y = drawn(rng, (M, D), (N, D))
    gate = torch.from_numpy(rng.uniform(0, 1, (M, D)))
    labels, partners, key_labels = classes(rng, M, N, 7)
    partners[0] = 99  # a class that nobody has
    partners[1] = labels[1]
    how = {"reduction": reduction, "weight": torch.from_numpy(rng.uniform(0.5, 2, M))}

    def run(loss, x, y, gate, **more):
        return loss(x, y, gate.sigmoid(), labels, partners, key_labels, **how, **more)

    assert_equals_dense(
        functools.partial(run, gated_info_nce), functools.partial(run, dense.gated_info_nce), [x, y, gate],
        plans=("auto", "recompute"), rows=1 if reduction == "mean" else M,
    )  # fmt: skip


def test_gradcheck(rng):
    x, y, gate = drawn(rng, (5, 3), (6, 3), (5, 3))
    labels, partners, key_labels = classes(rng, 5, 6, 3)
    assert_gradcheck(
        lambda x, y, gate, **how: gated_info_nce(x, y, gate.sigmoid(), labels, partners, key_labels, **how),
        [x, y, gate],
    )


def test_open_gates_and_equal_classes_of_one_partner_are_sup_con(rng):
    """A class's only other key as partner: no further positive in any denominator, so SupCon's form says the same."""
    a, b = drawn(rng, (8, 5), (8, 5))
    labels = torch.arange(8)
    got = gated_info_nce(a, b, torch.ones_like(a), labels, labels, labels)
    torch.testing.assert_close(got, sup_con(a, labels, keys=b, key_labels=labels), rtol=1e-12, atol=0)


def test_a_shut_coordinate_is_not_seen(rng):
    x, y, z = drawn(rng, (9, 4), (9, 4), (9, 4))
    x, y = (torch.nn.functional.normalize(part) for part in (x, y))
    labels, partners, key_labels = classes(rng, 9, 9, 4)
    gate = torch.tensor([1.0, 0.0, 1.0, 1.0]).double().expand(9, 4)
    one = gated_info_nce(x, y, gate, labels, partners, key_labels, normalize=False)
    y[:, 1] = z[:, 1]
    assert torch.equal(one, gated_info_nce(x, y, gate, labels, partners, key_labels, normalize=False))


def test_no_gated_keys_and_no_scores_of_all_pairs_are_made(rng):
    """2,048 rows of width 8 in 512 classes: 33M gated coordinates and 4M scores, against 4 positives a row."""
    x, y = (part.float().requires_grad_() for part in drawn(rng, (2048, 8), (2048, 8)))
    gate = torch.rand(2048, 8).requires_grad_()
    labels = torch.arange(2048) % 512
    with LargestTensor() as largest:
        gated_info_nce(x, y, gate, labels, labels.flip(0), labels).backward()
    assert 0 < largest.elements <= 64 * 2048


def test_the_gates_entropy_is_zero_for_open_and_shut_and_differentiable_there():
    gate = torch.tensor([0.0, 1.0, 1.0], requires_grad=True)
    loss = gate_entropy(gate)
    loss.backward()
    assert loss.abs() < 1e-6 and torch.isfinite(gate.grad).all()
    torch.testing.assert_close(gate_entropy(torch.full((3,), 0.5)), torch.tensor(2.0).log())
    inside = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).view(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(gate_entropy, [inside])


def test_the_module_learns_its_gates(rng):
    torch.manual_seed(0)
    loss = HydraLoss(4, 6, entropy_weight=0.1, label_width=8, hidden=16)
    a, b = (part.float() for part in drawn(rng, (12, 6), (12, 6)))
    labels = torch.arange(12) % 4
    loss(a, b, labels).backward()
    assert all(part.grad.abs().max() > 0 for part in loss.gate.network[2].parameters())
    gates = loss.eval().gate(labels, labels.roll(1))
    assert torch.equal(gates, loss.gate(labels.roll(1), labels)) and gates.min() > 0 and gates.max() < 1
    want = gated_info_nce(a, b, gates, labels, labels.roll(1), labels) + 0.1 * gate_entropy(gates)
    torch.testing.assert_close(loss(a, b, labels, partner_labels=labels.roll(1)), want)
    assert isinstance(loss.gate, LabelGate)


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_hardly_any_rows_are_finite(rows):
    x = torch.ones(rows, 3, requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.long)
    loss = gated_info_nce(x, x, torch.ones_like(x), labels, labels, labels)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def test_wrong_arguments_are_named():
    x, labels = torch.ones(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="gate: the dtype and shape of query"):
        gated_info_nce(x, x, torch.ones(3), labels, labels, labels)
    with pytest.raises(ValueError, match=r"partner_labels: shape \(3,\)"):
        gated_info_nce(x, x, x, labels, labels[:2], labels)
