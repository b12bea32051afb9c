"""The repaired interpreter computes bfloat16 as torch does: without this, no bfloat16 kernel test means anything."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _operations_kernel(a, b, total, power, product, matrix, cast, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    x = tl.load(a + at)
    y = tl.load(b + at)
    tl.store(total + at, x + y)
    tl.store(power + at, tl.exp2(x.to(tl.float32)).to(tl.bfloat16))
    tl.store(product + at, tl.where(x > y, x * y, x))
    tl.store(matrix + at, tl.dot(x, y))
    tl.store(cast + at, (x.to(tl.float32) * 1.0009765625).to(tl.bfloat16))


def test_operations_match_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 32, generator=generator).bfloat16() for _ in range(2))
    a[0, 0], a[0, 1] = float("nan"), float("inf")
    b[:2] = 1.0
    total, power, product, cast = (torch.empty_like(a) for _ in range(4))
    matrix = torch.empty(32, 32)
    _operations_kernel[(1,)](a, b, total, power, product, matrix, cast, SIZE=32)
    torch.testing.assert_close(total, a + b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(power, torch.exp2(a.float()).bfloat16(), rtol=2**-8, atol=0, equal_nan=True)
    torch.testing.assert_close(product, torch.where(a > b, a * b, a), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(matrix[1:], (a.float() @ b.float())[1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cast, (a.float() * 1.0009765625).bfloat16(), rtol=0, atol=0, equal_nan=True)
