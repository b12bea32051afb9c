"""Runs the Triton kernels on the CPU, in Triton's interpreter.

The variable must be set before the first import of triton, and stays set: hence a pytest run of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

os.environ["TRITON_INTERPRET"] = "1"

import bfloat16_repair

bfloat16_repair.install()


@pytest.fixture(autouse=True)
def _logarithm_of_zero() -> Iterator[None]:
    """A kernel takes log(0) = -inf for an empty row; NumPy, which executes it here, would warn."""
    with np.errstate(divide="ignore"):
        yield
