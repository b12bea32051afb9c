"""Log-sum-exp of rows, columns or both: one pass over the scores, forward only, beside ``torch.logsumexp``."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from harness import Bench, Case, main, main_batch, print_race, race, rounds_of, rows_of_race
from machine import Ceilings, Record, raced_dtypes
from simtile.functional import pair_lse
from simtile.kernels import reference_torch

SCALE = 20.0


def ours(x: Tensor, y: Tensor, direction: str) -> tuple[Tensor, ...]:
    found = pair_lse(x, y, scale=SCALE, direction=direction)  # type: ignore[arg-type]
    return tuple(lse for lse in found if lse is not None)


def dense(x: Tensor, y: Tensor, direction: str) -> tuple[Tensor, ...]:
    s = SCALE * x @ y.T
    return tuple(torch.logsumexp(s, dim) for dim in {"row": (1,), "column": (0,), "both": (1, 0)}[direction])


def exact(x: Tensor, y: Tensor, direction: str) -> tuple[Tensor, ...]:
    found = reference_torch.pair_lse(x, y, scale=SCALE, direction=direction)  # type: ignore[arg-type]
    return tuple(lse for lse in found if lse is not None)


BENCH = Bench(
    file=__file__,
    option="direction",
    variants={"both": 1, "row": 1, "column": 1},
    contenders={"simtile": ours, "torch": dense},
    exact=exact,
    backward=False,
)


def run(options: argparse.Namespace, ceilings: Ceilings) -> Record:
    """Both types for both directions; the rows alone show in float32 what the columns cost."""
    shapes = [("both", "float32"), ("both", "bfloat16"), ("row", "float32")]
    shown = shapes[:1] if options.quick else [shape for shape in shapes if shape[1] in raced_dtypes()]
    cases = [Case(direction, dtype, main_batch(options), 384, options.threads) for direction, dtype in shown]
    results = race(BENCH, cases, **rounds_of(options, main=False))
    rows = [row for entries in results for row in rows_of_race(BENCH, entries, ceilings)]
    print_race(f"Log-sum-exp, forward, B = {main_batch(options):,}, {options.threads} threads", BENCH, rows)
    return {"rows": rows, "processes": [p for entries in results for e in entries for p in e.processes]}


if __name__ == "__main__":
    main(BENCH, __doc__, run)
