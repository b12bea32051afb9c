"""bfloat16 in Triton's interpreter, which computes on its bit patterns as if they were integers (3.7.1 to 3.9.0).

The interpreter holds bfloat16 as uint16. Here every floating-point operation of its builder sees the decoded float32
values instead, and its result is rounded to nearest even. Private methods of triton are replaced, so the triton of the
tests is pinned; ``test_bfloat16_repair.py`` compares each operation with torch. triton-lang/triton issue 11584.

Products of tiles, too: the interpreter takes NumPy's, in which one score rounds otherwise in a tile of another shape,
more so on some processors than on others. Here a tile's product is summed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_COMPARISONS = "create_fcmp"
_ARITHMETIC = (
    "create_fadd", "create_fsub", "create_fmul", "create_fdiv", "create_frem", "create_fma", "create_fabs",
    "create_minimumf", "create_minnumf", "create_maximumf", "create_maxnumf", "create_clampf",
    "create_exp", "create_exp2", "create_log", "create_log2", "create_sqrt", "create_rsqrt", "create_sin",
    "create_cos", "create_erf", "create_floor", "create_ceil", "create_precise_sqrt", "create_precise_divf",
)  # fmt: skip


def _is_bfloat16(value: object) -> bool:
    return isinstance(value, TensorHandle) and value.dtype.scalar == tl.bfloat16


def _decoded(value: Any) -> Any:
    """A bfloat16 handle as float32; anything else as it is."""
    if not _is_bfloat16(value):
        return value
    return TensorHandle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _encoded(values: np.ndarray[Any, Any]) -> TensorHandle:
    """float values as bfloat16, rounded to nearest even; NaN stays NaN (rounding could carry it to infinity)."""
    single = np.ascontiguousarray(values, dtype=np.float32)
    bits = single.view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    bits = np.where(np.isnan(single), 0x7FC0, bits).astype(np.uint16)
    return TensorHandle(bits.reshape(np.shape(values)), tl.bfloat16)


def _repaired(method: Callable[..., Any], *, encode: bool) -> Callable[..., Any]:
    def call(self: InterpreterBuilder, *operands: Any, **options: Any) -> Any:
        result = method(self, *map(_decoded, operands), **options)
        if encode and any(map(_is_bfloat16, operands)) and result.dtype.scalar == tl.float32:
            return _encoded(result.data)
        return result

    return call


def _dot_of(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: InterpreterBuilder, a: Any, b: Any, d: TensorHandle, *options: Any) -> Any:
        if not np.issubdtype(d.data.dtype, np.floating):
            return method(self, a, b, d, *options)
        left, right = (_decoded(side).data.astype(np.float64) for side in (a, b))
        return TensorHandle(np.matmul(left, right).astype(d.data.dtype) + d.data, d.dtype.scalar)

    return call


def install() -> None:
    """Replaces the builder's methods; call once, before the first kernel runs."""
    builder = InterpreterBuilder
    for name in dir(builder):
        if name.startswith(_COMPARISONS):
            setattr(builder, name, _repaired(getattr(builder, name), encode=False))
        elif name == "create_dot":
            setattr(builder, name, _dot_of(getattr(builder, name)))
        elif name in _ARITHMETIC:
            setattr(builder, name, _repaired(getattr(builder, name), encode=True))
    cast = builder.cast_impl

    def cast_impl(self: InterpreterBuilder, source: TensorHandle, target: Any) -> TensorHandle:
        if target.scalar == tl.bfloat16 and not _is_bfloat16(source):
            return _encoded(source.data)
        if _is_bfloat16(source) and target.scalar != tl.bfloat16:
            return cast(self, _decoded(source), target)
        return cast(self, source, target)

    builder.cast_impl = cast_impl
