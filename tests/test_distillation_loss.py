"""Distillation from a teacher's softmax over the batch."""

from __future__ import annotations

import pytest
import torch

import dense_losses as dense
from loss_checks import assert_equals_dense, assert_gradcheck, drawn
from simtile.functional import distillation_loss, info_nce


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [3, 11], ids=["narrow-teacher", "wide-teacher"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_equals_its_equation(rng, symmetric, width, reduction):
    M, N = (18, 18) if symmetric else (18, 25)
    q, k, p, r = drawn(rng, (M, 6), (N, 6), (M, width), (N, width))
    options = {
        "symmetric": symmetric, "teacher_temperature": 0.2, "reduction": reduction,
        "weight": torch.from_numpy(rng.uniform(0.5, 2, M)),
    }  # fmt: skip

    def mine(q, k, **how):
        return distillation_loss(q, k, p.to(q.dtype), r.to(q.dtype), **options, **how)

    def plain(q, k, **how):
        return dense.distillation_loss(q, k, p.to(q.dtype), r.to(q.dtype), **options, **how)

    assert_equals_dense(mine, plain, [q, k], rows=1 if reduction == "mean" else M)


def test_gradcheck(rng):
    q, k, p, r = drawn(rng, (4, 3), (4, 3), (4, 2), (4, 2))
    assert_gradcheck(lambda q, k, **how: distillation_loss(q, k, p, r, teacher_temperature=0.3, **how), [q, k])


def test_a_certain_teacher_is_clip(rng):
    q, k = drawn(rng, (6, 4), (6, 4))
    got = distillation_loss(q, k, torch.eye(6).double(), torch.eye(6).double(), teacher_temperature=0.01)
    torch.testing.assert_close(got, info_nce(q, k, symmetric=True), rtol=1e-12, atol=0)


def test_a_student_like_its_teacher_has_the_teachers_entropy_and_no_gradient(rng):
    q, k = (part.requires_grad_() for part in drawn(rng, (7, 4), (7, 4)))
    loss = distillation_loss(q, k, q.detach(), k.detach(), temperature=0.2)
    loss.backward()
    assert loss > 0
    assert q.grad.abs().max() < 1e-12 and k.grad.abs().max() < 1e-12


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    for wrong, message in (
        ({"teacher_key": torch.ones(4, 2)}, "teacher_key: 3 rows, got 4"),
        ({"temperature": torch.tensor(0.1)}, "teacher_temperature: needed where temperature is a tensor"),
        ({"key": torch.ones(4, 2), "teacher_key": torch.ones(4, 2)}, "key: as many rows as query, 3, for symmetric"),
    ):
        with pytest.raises(ValueError, match=message):
            distillation_loss(**{"query": x, "key": x, "teacher_query": x, "teacher_key": x, **wrong})
