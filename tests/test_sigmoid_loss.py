"""SigLIP's loss against its specification and plain torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from accuracy import assert_as_accurate, rounded
from plain_torch import coarse, gradients
from simtile.functional import sigmoid_loss
from simtile.kernels import reference_losses as ref


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize(("M", "N"), [(23, 31), (31, 23), (1, 1)])
def test_equals_the_specification(rng, M, N, ids, reduction):
    q, k = rng.normal(size=(M, 8)), rng.normal(size=(N, 8))
    extra = {"query_ids": rng.integers(0, 6, M), "key_ids": rng.integers(0, 6, N)} if ids else {}
    want = ref.sigmoid_loss(q, k, reduction=reduction, **extra)
    extra = {name: torch.from_numpy(value) for name, value in extra.items()}
    plans = ("dense", "recompute", "chunked")[: 2 if reduction == "none" else 3]
    for dtype, plan in itertools.product((torch.float64, torch.float32), plans):
        query, key = (torch.from_numpy(part).to(dtype) for part in (q, k))
        loss = sigmoid_loss(query, key, reduction=reduction, plan=plan, **extra)
        np.testing.assert_allclose(loss, want, rtol=1e-12 if dtype == torch.float64 else 5e-6)


def plain(q, k, scale, bias):
    s = (normalize(q) @ normalize(k).T).to(scale.dtype) * scale + bias
    z = 2 * torch.eye(len(q), dtype=scale.dtype) - 1
    return -logsigmoid(z * s).sum() / len(q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("B", "D"), [(5, 3), (97, 45), (384, 64), (389, 129)])
def test_as_accurate_as_plain_torch(rng, B, D, dtype):
    q, k = (rounded(rng.normal(size=(B, D)), dtype) for _ in range(2))

    def run(function, q, k):
        wide = torch.promote_types(q.dtype, torch.float32)
        inputs = [q.clone().requires_grad_(), k.clone().requires_grad_()]
        inputs += [torch.tensor(value, dtype=wide, requires_grad=True) for value in (10.0, -10.0)]
        loss = function(*inputs)
        return loss.detach(), gradients(loss, inputs)

    exact = run(plain, *(torch.from_numpy(part) for _, part in (q, k)))
    naive = run(plain, q[0], k[0])
    for plan in ("dense", "chunked"):
        mine = run(lambda q, k, s, b, plan=plan: sigmoid_loss(q, k, scale=s, bias=b, plan=plan), q[0], k[0])
        assert_as_accurate(mine[0], naive[0], exact[0].numpy(), magnitude=10 * coarse(dtype))
        for i, (got, bar, truth) in enumerate(zip(mine[1], naive[1], exact[1], strict=True)):
            magnitude = 1.0 if i > 1 else 10 / B / float(np.linalg.norm((q[1], k[1])[i], axis=1).min())
            assert_as_accurate(got, bar, truth.numpy(), magnitude=magnitude * (coarse(dtype) if i > 1 else 1.0))


def test_gradcheck_by_every_differentiable_argument(rng):
    q, k = (torch.from_numpy(rng.normal(size=(rows, 3))).requires_grad_() for rows in (4, 5))
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, -1.0))
    for reduction, plan in (("mean", "dense"), ("mean", "chunked"), ("none", "recompute")):
        assert torch.autograd.gradcheck(
            lambda q, k, s, b, r=reduction, p=plan: sigmoid_loss(q, k, scale=s, bias=b, reduction=r, plan=p),
            (q, k, scale, bias),
        )


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(TypeError, match="bias: a number"):
        sigmoid_loss(x, x, bias=None)
    with pytest.raises(ValueError, match="query_ids: needed together with key_ids"):
        sigmoid_loss(x, x, key_ids=torch.arange(3))
    with pytest.raises(TypeError, match="process_group: a ProcessGroup, a DeviceMesh"):
        sigmoid_loss(x, x, process_group="world")
