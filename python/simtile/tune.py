"""``simtile tune``: race the launches of every Triton kernel on this GPU, and keep the fastest.

Starting at the launch table's entry, each step tries one tile size, number of warps or stages doubled or halved, and
moves to the best until none is better by one percent: some 15 compilations an entry where the full grid has hundreds.
The winners go to a file that the first GPU job of a process reads. The width D is no key of the table but for kernels
whose gradient stays in registers (row_grad_64 ... 256): the others are timed at D = 768.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn.functional import normalize
from triton.runtime.errors import TritonError

from simtile.kernels import launch as table
from simtile.kernels.accumulate import aligned
from simtile.kernels.launch import Architecture, Launch, Op, Operands
from simtile.kernels.nested_grad import nested_lse_bwd
from simtile.kernels.nested_lse import nested_lse_fwd
from simtile.kernels.pair_grad import coefficients
from simtile.kernels.pair_lse import pair_lse_fwd
from simtile.kernels.pair_rank import pair_rank_fwd
from simtile.kernels.pair_softplus import pair_softplus_fwd
from simtile.kernels.pair_stats import pair_stats_fwd
from simtile.kernels.pair_topk import GROUPED, pair_topk_fwd
from simtile.kernels.pairs import PairOptions, Pairs
from simtile.kernels.row_grad import narrow_lse_bwd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Run: TypeAlias = "Callable[[Launch], object]"

BOUNDS = {"block_m": (16, 256), "block_n": (GROUPED, 256), "block_k": (16, 128), "warps": (2, 16), "stages": (1, 6)}
"""Smallest and largest value of each field; a tile kernel's maxima are taken over GROUPED columns."""


def neighbours(launch: Launch) -> list[Launch]:
    """Launches that differ in one field: stages by one, the others by a factor of two."""
    found = []
    for field, (least, most) in BOUNDS.items():
        value = getattr(launch, field)
        steps = (value - 1, value + 1) if field == "stages" else (value // 2, value * 2)
        found += [replace(launch, **{field: step}) for step in steps if least <= step <= most]
    return found


def fastest(start: Launch, seconds: Callable[[Launch], float]) -> tuple[Launch, float]:
    """(launch that no neighbour beats by one percent, how many times as fast as ``start`` it is)."""
    best, times = start, {start: seconds(start)}
    while True:
        for launch in neighbours(best):
            if launch not in times:
                try:
                    times[launch] = seconds(launch)
                except (TritonError, RuntimeError):  # more memory or registers than there are, or a compiler's failure
                    times[launch] = math.inf
        winner = min(neighbours(best), key=times.__getitem__)
        if not times[winner] < 0.99 * times[best]:
            return best, times[start] / times[best]
        best = winner


def jobs(operands: Operands, device: torch.device, M: int, N: int, D: int) -> dict[Op, Run]:
    """What is timed: each operation on random unit rows, the table's own kernel as far as possible alone."""
    dtype = torch.float32 if operands in ("tf32", "ieee") else torch.bfloat16
    x, y = (normalize(torch.randn(rows, D, device=device)).to(dtype) for rows in (M, N))
    options: PairOptions = {"scale": 14.0}
    if operands == "masked":
        ids = [torch.arange(rows, device=device) for rows in (M, N)]
        options |= {"x_ids": ids[0], "y_ids": ids[1], "skip_diagonal": True}
    pairs = Pairs.of(x, y, **options)
    row, column = (torch.full((rows,), 20.0, device=device) for rows in (M, N))
    out = aligned(M, N, dtype, device)

    def narrow(width: int) -> Run:
        a, b = x[:, :width], y[:, :width]
        return lambda e: narrow_lse_bwd(
            a, b, row=row, column=column, grad_row=row, grad_column=column, launch=e, **options
        )

    runs: dict[Op, Run] = {
        "pair_lse_fwd": lambda e: pair_lse_fwd(x, y, direction="both", launch=e, **options),
        "pair_lse_bwd": lambda e: coefficients(pairs, out, e, row=(row, row), column=(column, column)),
        "pair_softplus": lambda e: pair_softplus_fwd(x, y, launch=e, **options),
        "pair_rank": lambda e: pair_rank_fwd(x, y, row, launch=e, **options),
    }
    if operands != "masked":
        dims = [D // 8, D // 4, D // 2, D]
        nested = torch.full((len(dims), M), 20.0, device=device)
        runs |= {
            "pair_topk": lambda e: pair_topk_fwd(x, y, 10, launch=e),
            "pair_topk_few": lambda e: pair_topk_fwd(x[:16], y, 10, launch=e),
            "pair_stats": lambda e: pair_stats_fwd(x, y, betas=(20.0,), launch=e),
            "nested_lse": lambda e: nested_lse_fwd(x, y, dims, launch=e),
            "nested_grad": lambda e: nested_lse_bwd(x, y, dims, row=nested, grad_row=nested, launch=e),
        }
    if dtype == torch.bfloat16:
        runs |= {"row_grad_64": narrow(64), "row_grad_128": narrow(128), "row_grad_256": narrow(256)}
    return runs


def tune(
    architecture: Architecture, operands: Operands, runs: dict[Op, Run], timer: Callable[[Callable[[], object]], float]
) -> Iterator[tuple[tuple[Architecture, Op, Operands], Launch, float]]:
    """(key, fastest launch, its gain over the entry so far) of each operation, one after another."""
    for op, run in runs.items():

        def seconds(launch: Launch, run: Run = run) -> float:
            return timer(lambda: run(launch))

        yield (architecture, op, operands), *fastest(table.entry(architecture, op, operands), seconds)


def gpu_seconds(run: Callable[[], object]) -> float:
    """Median of ten, after one that compiles."""
    run()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(10)]
    for start, stop in events:
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(stop) / 1e3 for start, stop in events))


def main(argv: Sequence[str]) -> int:
    """Race, print and write; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="simtile tune", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=table.TUNED_FILE, help="default: %(default)s, which is read back")
    parser.add_argument("--rows", type=int, default=8192, help="rows of each side (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("simtile tune: launches are raced on a CUDA or ROCm GPU, and torch sees none", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    architecture = table.architecture_of(device)
    print(f"{torch.cuda.get_device_name(device)}: {architecture}")
    entries = {}
    precision = torch.get_float32_matmul_precision()
    classes: tuple[Operands, ...] = ("half", "masked", "tf32", "ieee")
    for operands in classes:
        torch.set_float32_matmul_precision("high" if operands == "tf32" else "highest")
        runs = jobs(operands, device, arguments.rows, arguments.rows, 768)
        for key, best, gain in tune(architecture, operands, runs, gpu_seconds):
            print(f"{' '.join(key):32s} {gain:5.2f}x  {best}", flush=True)
            entries[key] = best
            # After each: an interrupted race keeps what it has found.
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            table.save_tuned(arguments.out, entries)
    torch.set_float32_matmul_precision(precision)
    return 0
