"""InfoNCE, loss and gradients of both inputs, beside dense torch: time, extra peak memory, rate of the plan.

Rows are normalised beforehand and the temperature is a number, so that both sides do the same work. Dense torch is what
its users write: ``F.cross_entropy`` on the logits, of both directions when two-sided.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import (
    Bench,
    Case,
    main,
    print_race,
    print_table,
    race,
    rounds_of,
    rows_of_race,
    spawn,
)
from machine import Ceilings, Record
from simtile.functional import info_nce
from simtile.kernels import reference_torch

TEMPERATURE = 0.05
LARGE = 32768
"""Rows at which dense torch would need over 12 GB two-sided, and ours is shown to stay linear."""


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


def large(threads: int) -> list[Record]:
    """Memory and one time at 32,768 rows; dense torch is not run."""
    return [spawn(BENCH, "simtile", Case(sides, "float32", LARGE, 384, threads), 1) for sides in BENCH.variants]


def run(options: argparse.Namespace, ceilings: Ceilings) -> Record:
    results = []
    for dim in (384,) if options.quick else (384, 768):
        cases = [
            Case(sides, dtype, 8192, dim, options.threads)
            for dtype in ("float32", "bfloat16")
            for sides in BENCH.variants
        ]
        results += race(BENCH, cases, **rounds_of(options, main=dim == 384))
    rows = [row for entries in results for row in rows_of_race(BENCH, entries, ceilings)]
    print_race(f"InfoNCE, loss and both gradients, B = 8,192, {options.threads} threads", BENCH, rows)
    record: Record = {"rows": rows, "processes": [p for entries in results for e in entries for p in e.processes]}
    if options.quick:
        return record
    record["large"] = large(options.threads)
    print_table(
        f"InfoNCE, float32, B = {LARGE:,}, D = 384: memory",
        ("sides", "contender", "s", "extra MB"),
        [
            *((r["variant"], "simtile", f"{min(r['ms']) / 1e3:.1f}", f"{r['extra_mb']:.0f}") for r in record["large"]),
            ("both", "torch", "not run: logits and their gradients would take over 8 GB one-sided, 12 GB two-sided"),
        ],
    )
    return record


if __name__ == "__main__":
    main(BENCH, __doc__, run)
