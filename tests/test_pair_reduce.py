"""Any score, any reduction: chunked results, gradients through what score_mod closes over, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simtile.functional import merge_topk, pair_reduce, pair_topk
from simtile.kernels import reference as ref


def scored(s, i, j, gain):
    return (gain * s - 0.1 * (i - j).abs()).masked_fill(i == j, -torch.inf)


@pytest.mark.parametrize("reduce", ["lse", "max", "sum"])
@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
def test_chunks_equal_the_whole_in_value_and_gradient(rng, reduce, chunk):
    x, y = (torch.from_numpy(rng.normal(size=(rows, 5))).requires_grad_() for rows in (20, 33))
    gain = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def mod(s, i, j):
        s = scored(s, i, j, gain)
        return s.exp() if reduce == "sum" else s

    s = mod(x @ y.T, torch.arange(20)[:, None], torch.arange(33)[None])
    want = {"lse": lambda: s.logsumexp(1), "max": lambda: s.amax(1), "sum": lambda: s.sum(1)}[reduce]()
    got = pair_reduce(x, y, mod, reduce, chunk=chunk)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for a, b in zip(
        torch.autograd.grad(got.sum(), [x, y, gain]), torch.autograd.grad(want.sum(), [x, y, gain]), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduce", ["lse", "max", "sum"])
def test_empty_rows(reduce):
    x = torch.ones(3, 2, requires_grad=True)
    got = pair_reduce(x, torch.ones(0, 2), None, reduce)
    assert (got == (0 if reduce == "sum" else -torch.inf)).all()
    assert pair_reduce(x[:0], torch.ones(4, 2), None, reduce).shape == (0,)
    got = pair_reduce(x, torch.ones(4, 2), lambda s, i, j: s.masked_fill(i == 1, -torch.inf), reduce)
    got[[0, 2]].sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad[1] == 0).all()


def test_topk_with_ties_and_padding():
    x, y = torch.ones(3, 2), torch.ones(4, 2)
    got = pair_reduce(x, y, lambda s, i, j: s.masked_fill(j == 0, -torch.inf), "topk", k=5, chunk=2)
    assert got.ids.tolist() == [[1, 2, 3, -1, -1]] * 3
    assert got.scores[:, 3:].isneginf().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"reduce": "mean"}, "reduce: one of"), ({"reduce": "topk"}, "k: at least 1"), ({"k": 2}, "k: at least 1 for"),
     ({"chunk": 0}, "chunk: at least 1 row")],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pair_reduce(**{"x": torch.ones(2, 2), "y": torch.ones(2, 2), "score_mod": None, "reduce": "lse", **arguments})


@pytest.mark.parametrize("k", [1, 3, 50])
def test_topk_equals_the_specification(rng, k):
    x, y = rng.integers(-3, 4, (11, 4)).astype(float), rng.integers(-3, 4, (40, 4)).astype(float)  # many ties
    drop = rng.random((11, 40)) < 0.3
    csr = (np.r_[0, np.cumsum(drop.sum(1))], np.nonzero(drop)[1])
    a, b = rng.integers(-1, 3, 40).astype(float), rng.integers(-2, 3, 40).astype(float)
    want = ref.pair_topk(x, y, k, y_scale=a, y_bias=b, exclude=csr)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        tensors = [torch.from_numpy(part).to(dtype) for part in (x, y)]
        got = pair_topk(
            *tensors,
            k,
            y_scale=torch.from_numpy(a),
            y_bias=torch.from_numpy(b),
            exclude=tuple(map(torch.from_numpy, csr)),
        )
        np.testing.assert_array_equal(got.ids, want.ids)
        np.testing.assert_allclose(got.scores, want.scores, rtol=1e-6)


def test_topk_gradients(rng):
    x, y = (torch.from_numpy(rng.normal(size=(rows, 3))).requires_grad_() for rows in (4, 9))
    a, b = (torch.from_numpy(rng.normal(size=9)).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y, a, b: pair_topk(x, y, 3, y_scale=a, y_bias=b).scores, (x, y, a, b))


def test_blocks_of_columns_merge_to_the_whole(rng):
    x, y = (torch.from_numpy(rng.integers(-3, 4, (rows, 4))).double() for rows in (11, 40))
    whole = pair_topk(x, y, 5)
    parts = [pair_topk(x, part, 5) for part in (y[:13], y[13:])]
    shifted = parts[1]._replace(ids=parts[1].ids + 13)
    for merged in (merge_topk(parts[0], shifted), merge_topk(shifted, parts[0])):
        assert torch.equal(merged.ids, whole.ids) and torch.equal(merged.scores, whole.scores)
