"""A drop-in beside its original: the same inputs, the loss and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from plain_torch import gradients
from simtile import _plan

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Relative to the largest entry of the exact result."""

SMALLEST = 1e-2
"""A smaller result counts as this large: what cancels to nearly 0 is rounding, in the original as well."""


@contextmanager
def no_stored_scores(active: bool) -> Iterator[None]:
    """Small batches on the plans of large ones: tiles, and for float64 chunks of rows."""
    before = dict(_plan.DENSE_PAIRS), _plan.DENSE_BYTES, _plan.WORKSPACE_BYTES
    try:
        if active:
            _plan.DENSE_PAIRS.update(dict.fromkeys(_plan.DENSE_PAIRS, 0))
            _plan.DENSE_BYTES, _plan.WORKSPACE_BYTES = 0, 4096
        yield
    finally:
        _plan.DENSE_PAIRS.update(before[0])
        _plan.DENSE_BYTES, _plan.WORKSPACE_BYTES = before[1:]


def loss_and_gradients(loss: Callable[..., Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of fresh copies of the inputs, and its gradient by each that is floating."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    value = loss(**leaves)
    return {"loss": value.detach()} | dict(zip(leaves, gradients(value, list(leaves.values())), strict=True))


def in_dtype(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs in another dtype."""
    return {name: value.to(dtype) for name, value in inputs.items()}


def assert_same(found: Mapping[str, Tensor], exact: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Loss and gradients in ``dtype`` beside the original's of the same inputs in float64."""
    assert found.keys() == exact.keys()
    for name, truth in exact.items():
        mine = found[name]
        assert mine.shape == truth.shape, name
        allowed = TOLERANCE[dtype] * max(float(truth.abs().max()), SMALLEST)
        off = float((mine.double() - truth).abs().max())
        assert off <= allowed, f"{name}: off by {off:.2e}, allowed {allowed:.2e}"
