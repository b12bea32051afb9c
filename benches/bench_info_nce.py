"""InfoNCE, loss and gradients of both inputs, beside dense torch: time, extra peak memory, rate of the plan.

Rows are normalised beforehand and the temperature is a number, so that both sides do the same work. Dense torch is what
its users write: ``F.cross_entropy`` on the logits, of both directions when two-sided.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Bench, Case, main, main_batch, number, print_race, print_table, race, rounds_of, rows_of_race
from machine import Ceilings, Record, available_memory, raced_dtypes
from simtile.functional import info_nce
from simtile.kernels import reference_torch

TEMPERATURE = 0.05
SIZES = (1024, 2048, 4096, 8192, 16384, 32768)
QUICK_SIZES = SIZES[:1]
"""Batches of the sweep: dense torch grows with their square, and is not run where its scores would not fit."""


def ours(x: Tensor, y: Tensor, sides: str) -> tuple[Tensor]:
    return (info_nce(x, y, temperature=TEMPERATURE, symmetric=sides == "two", normalize=False),)


def dense(x: Tensor, y: Tensor, sides: str) -> tuple[Tensor]:
    logits = (1 / TEMPERATURE) * x @ y.T
    labels = torch.arange(len(x))
    loss = F.cross_entropy(logits, labels)
    return ((loss + F.cross_entropy(logits.T, labels)) / 2 if sides == "two" else loss,)


def exact(x: Tensor, y: Tensor, sides: str) -> tuple[Tensor]:
    scale = 1 / TEMPERATURE
    loss = reference_torch.pair_nll(x, y, (x * y).sum(1) * scale, scale=scale)
    back = reference_torch.pair_nll(y, x, (x * y).sum(1) * scale, scale=scale) if sides == "two" else loss
    return ((loss + back) / 2,)


BENCH = Bench(
    file=__file__,
    option="sides",
    variants={"one": 3, "two": 4},
    contenders={"simtile": ours, "torch": dense},
    exact=exact,
)


def dense_bytes(batch: int) -> int:
    """What dense torch stores two-sided: logits, two softmaxes and their gradient in float32."""
    return 4 * 4 * batch**2


def sizes(options: argparse.Namespace, ceilings: Ceilings) -> list[Record]:
    """Time and extra memory by batch size, two-sided, float32; plain torch as far as half of the free memory goes."""
    rows: list[Record] = []
    for batch in QUICK_SIZES if options.quick else SIZES:
        case = Case("two", "float32", batch, 384, options.threads)
        needed = dense_bytes(batch)
        fits = needed < available_memory() / 2
        bench = BENCH if fits else dataclasses.replace(BENCH, contenders={"simtile": ours})
        how = rounds_of(options, main=False) | ({"rounds": options.rounds or 1} if batch > 8192 else {})
        (entries,) = race(bench, [case], **how)
        rows += rows_of_race(BENCH, entries, ceilings)
        if not fits:
            why = f"its scores would take {needed / 1e9:.0f} GB"
            rows.append({"contender": "torch", "variant": "two", "dtype": "float32", "batch": batch, "not_run": why})
    return rows


def print_sizes(rows: list[Record]) -> None:
    """Both contenders beside each other, a line a batch size."""
    by_batch: dict[int, dict[str, Record]] = {}
    for row in rows:
        by_batch.setdefault(row["batch"], {})[row["contender"]] = row
    table = []
    for batch, found in by_batch.items():
        mine, dense = found["simtile"], found["torch"]
        table.append([
            f"{batch:,}", number(mine.get("ms"), "{:.1f}"),
            f"not run: {dense['not_run']}" if "not_run" in dense else number(dense.get("ms"), "{:.1f}"),
            number(mine.get("extra_mb"), "{:.0f}"), number(dense.get("extra_mb"), "{:.0f}"),
        ])  # fmt: skip
    header = ("B", "simtile ms", "torch ms", "simtile extra MB", "torch extra MB")
    print_table("InfoNCE by batch size, two-sided, float32, D = 384", header, table)


def run(options: argparse.Namespace, ceilings: Ceilings) -> Record:
    batch = main_batch(options)
    shapes = [(dtype, sides) for dtype in raced_dtypes() for sides in BENCH.variants]
    results = []
    for dim in (384,) if options.quick else (384, 768):
        # Quick: two-sided float32, which is also the largest size of the sweep below.
        cases = [
            Case(sides, dtype, batch, dim, options.threads)
            for dtype, sides in (shapes[1:2] if options.quick else shapes)
        ]
        results += race(BENCH, cases, **rounds_of(options, main=dim == 384))
    rows = [row for entries in results for row in rows_of_race(BENCH, entries, ceilings)]
    print_race(f"InfoNCE, loss and both gradients, B = {batch:,}, {options.threads} threads", BENCH, rows)
    by_size = sizes(options, ceilings) + (rows if options.quick else [])
    print_sizes(by_size)
    return {
        "rows": rows,
        "processes": [p for entries in results for e in entries for p in e.processes],
        "sizes": by_size,
    }


if __name__ == "__main__":
    main(BENCH, __doc__, run)
