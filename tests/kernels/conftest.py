"""Runs the Triton kernels on the CPU, in Triton's interpreter.

The variable must be set before the first import of triton, and stays set: hence a pytest run of its own.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import bfloat16_repair

bfloat16_repair.install()
