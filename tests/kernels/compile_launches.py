"""Every launcher with CPU tensors on a pretended sm_90: Triton specialises and compiles, and launches nothing.

Run by test_jit_launches.py in a process without the interpreter. It covers what neither the interpreter nor
ahead-of-time compilation does: how the launchers' own arguments are bound, specialised and cached.
"""

from __future__ import annotations

import collections
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from simtile.kernels.accumulate import Wanted
from simtile.kernels.launch import Launch
from simtile.kernels.nested_grad import nested_lse_bwd
from simtile.kernels.nested_lse import nested_lse_fwd
from simtile.kernels.pair_grad import pair_lse_bwd
from simtile.kernels.pair_lse import pair_lse_fwd
from simtile.kernels.pair_nll import pair_nll_fwd
from simtile.kernels.pair_rank import pair_rank_fwd
from simtile.kernels.pair_softplus import pair_softplus_fwd
from simtile.kernels.pair_stats import pair_stats_fwd
from simtile.kernels.pair_topk import pair_topk_fwd
from simtile.kernels.row_grad import narrow_lse_bwd
from simtile.kernels.self_lse import self_lse_fwd

LAUNCH = Launch(64, 64, 32, 4, 2)


class PretendedDriver:
    """What the compiler asks of a driver, without a device."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


compiled: dict[str, set[int]] = collections.defaultdict(set)
bind_and_compile = JITFunction.run


def compile_only(self: JITFunction[Any], *arguments: Any, **options: Any) -> Any:
    kernel = bind_and_compile(self, *arguments, **{**options, "warmup": True})
    compiled[self.__name__].add(id(kernel))
    return kernel


def run_all(M: int, N: int, k: int) -> None:
    """Each launcher once; results are of no meaning."""
    x, y = (torch.randn(rows, 64).bfloat16() for rows in (M, N))
    ids: dict[str, Any] = {"x_ids": torch.arange(M), "y_ids": torch.arange(N)}
    exclude = (torch.arange(M + 1), torch.arange(M) % N)
    biases = {"x_bias": torch.zeros(M), "y_bias": torch.zeros(N)}
    row, column = torch.zeros(M), torch.zeros(N)
    scale = torch.tensor(10.0)
    pair_lse_fwd(x, y, direction="both", launch=LAUNCH, scale=scale, **ids, **biases)
    pair_lse_fwd(x, y, direction="both", launch=LAUNCH, exclude=exclude, skip_diagonal=True, own=torch.empty(M))
    pair_lse_fwd(x, y, launch=LAUNCH, threshold=row, guide=(x, y))
    pair_lse_bwd(
        x, y, row=row, column=column, grad_row=row, grad_column=column, diagonal=row, launch=LAUNCH, wanted=Wanted()
    )
    narrow_lse_bwd(x, y, row=row, column=column, grad_row=row, grad_column=column, diagonal=row, launch=LAUNCH)
    pair_nll_fwd(x, y, None, link="softplus", wanted=Wanted(), launch=LAUNCH, skip_diagonal=True)
    pair_softplus_fwd(x, y, wanted=Wanted(), launch=LAUNCH, flip_diagonal=True, ids_mode="flip", **ids, **biases)
    pair_topk_fwd(x, y, k, y_bias=torch.zeros(N), exclude=exclude, launch=LAUNCH)
    pair_topk_fwd(x, torch.ones(N, 64, dtype=torch.int8), k, y_scale=torch.ones(N), launch=LAUNCH)
    pair_rank_fwd(x, y, launch=LAUNCH)
    pair_stats_fwd(x, y, betas=(1.0, 20.0), launch=LAUNCH)
    nested_lse_fwd(x, y, (16, 32, 64), direction="both", launch=LAUNCH)
    stacked = torch.zeros(3, M)
    nested_lse_bwd(x, y, (16, 32, 64), row=stacked, grad_row=stacked, launch=LAUNCH)
    self_lse_fwd(x, launch=LAUNCH)


if __name__ == "__main__":
    driver.set_active(PretendedDriver())
    JITFunction.run = compile_only
    run_all(100, 130, 2)
    once = {name: len(kernels) for name, kernels in compiled.items()}
    # Sizes that are multiples of 16, odd, and one; k likewise. None may compile a kernel again.
    for M, N, k in ((96, 160, 3), (97, 131, 2), (65, 200, 1)):
        run_all(M, N, k)
    again = {name: len(kernels) for name, kernels in compiled.items()}
    assert once == again, f"compiled again for another size: {once} before, {again} after"
    print(f"{len(once)} kernels, {sum(once.values())} specialisations")
