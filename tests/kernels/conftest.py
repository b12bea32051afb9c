"""Runs the Triton kernels on the CPU, in Triton's interpreter.

The variable must be set before the first import of triton, and stays set: hence a pytest run of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

os.environ["TRITON_INTERPRET"] = "1"

import bfloat16_repair

bfloat16_repair.install()


@pytest.fixture(autouse=True)
def _logarithm_of_zero() -> Iterator[None]:
    """A kernel takes log(0) = -inf for an empty row; NumPy, which executes it here, would warn."""
    with np.errstate(divide="ignore"):
        yield


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory holds NaN: an entry that no kernel wrote cannot pass for a zero."""

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(float("nan") if tensor.is_floating_point() else -77)

    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: poison(empty(*shape, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **options: poison(empty_like(tensor, **options)))
