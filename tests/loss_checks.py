"""How a loss is judged against its dense equation (:mod:`dense_losses`): values, all gradients, every plan, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from accuracy import assert_as_accurate
from plain_torch import gradients


def assert_equals_dense(
    mine: Callable[..., Tensor],
    dense: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    temperature: float = 0.1,
    plans: Sequence[str] = ("auto", "recompute"),
    rows: int = 1,
) -> None:
    """``mine(*inputs, temperature=..., plan=...)`` and ``dense(*inputs, temperature=...)`` agree.

    float64 to 1e-12 of the largest entry, in values and in gradients by all inputs and the temperature; float32 at most
    twice as wrong as the dense equation in float32, or a few ulp of the terms before they cancel: scores up to
    2 / temperature, and what these add to a gradient. ``rows`` is how many row losses were summed; 1 for a mean.
    """

    def run(function: Callable[..., Tensor], dtype: torch.dtype, **options: str) -> list[Tensor]:
        wide = [part.to(dtype).clone().requires_grad_() for part in (*inputs, torch.tensor(temperature))]
        loss = function(*wide[:-1], temperature=wide[-1], **options)
        return [loss.detach(), *gradients(loss.sum(), wide)]

    inputs = [part.float() for part in inputs]  # the truth is that of the rounded inputs
    exact = run(dense, torch.float64)
    naive = run(dense, torch.float32)
    for plan in plans:
        for got, truth in zip(run(mine, torch.float64, plan=plan), exact, strict=True):
            bar = 1e-12 * max(1.0, float(truth.abs().max()))
            np.testing.assert_allclose(got, truth, rtol=0, atol=bar, err_msg=plan)
        found = run(mine, torch.float32, plan=plan)
        total = rows if found[0].ndim == 0 else 1
        assert_as_accurate(found[0], naive[0], exact[0].numpy(), magnitude=2 / temperature * total)
        for got, plain, truth, x in zip(found[1:-1], naive[1:-1], exact[1:-1], inputs, strict=True):
            terms = 2 * rows / (temperature * len(x) * float(x.norm(dim=1).min()))
            assert_as_accurate(got, plain, truth.numpy(), magnitude=terms)
        assert_as_accurate(found[-1], naive[-1], exact[-1].numpy(), magnitude=2 / temperature**2 * rows)


def assert_gradcheck(mine: Callable[..., Tensor], inputs: Sequence[Tensor], temperature: float = 0.5) -> None:
    """Numerical gradients by all inputs and the temperature, float64, stored and tiled plans."""
    wide = [part.double().requires_grad_() for part in inputs]
    wide.append(torch.tensor(temperature, dtype=torch.float64, requires_grad=True))
    for plan in ("auto", "recompute"):
        assert torch.autograd.gradcheck(lambda *i, plan=plan: mine(*i[:-1], temperature=i[-1], plan=plan), wide)


def drawn(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal float64 tensors."""
    return [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that torch makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.untyped_storage().nbytes() // max(part.itemsize, 1))
        return out
