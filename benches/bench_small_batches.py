"""InfoNCE of small batches: where plain torch is hard to beat, and where the plan changes from stored scores to tiles.

Contenders take turns in one process here: their calls are so short that a thread pool has nothing left to do when the
next one starts, and only so do both see the same machine within microseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import Tensor

from bench_info_nce import BENCH, TEMPERATURE, dense, ours
from harness import Case, fault, inputs, print_table, python, race_parser, save, step
from machine import Disturbance, Record, environment
from simtile.functional import info_nce

BATCHES = (16, 32, 64, 128, 256, 512, 1024, 2048)
DIMS = (384, 768)
MOST, LEAST = 400, 7
"""Rounds of a batch size, as its time allows."""


def tiles(x: Tensor, y: Tensor, sides: str) -> tuple[Tensor]:
    """The tile engine at any size; by itself it is left to large batches."""
    if sides == "two":
        return (info_nce(x, y, temperature=TEMPERATURE, symmetric=True, normalize=False, plan="recompute"),)
    return (info_nce(x, y, temperature=TEMPERATURE, normalize=False, plan="chunked"),)


CONTENDERS = {"simtile": ours, "tiles": tiles, "torch": dense}


def medians(case: Case, seconds: float) -> Record:
    """Microseconds of each contender: the median, and the fastest tenth, which other processes disturb least.

    The ratio is the median of neighbours in time. One thread never waits, so that it is measured in CPU time.
    """
    clock = time.process_time if case.threads == 1 else time.perf_counter
    wrong = {name: why for name, run in CONTENDERS.items() if (why := fault(BENCH, run, case)) is not None}
    record: Record = {"sides": case.variant, "dtype": case.dtype, "batch": case.batch, "dim": case.dim, "wrong": wrong}
    if wrong:
        return record
    x, y = (t.requires_grad_() for t in inputs(case))
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    begin = time.perf_counter()
    for number_of_round in range(MOST + LEAST):
        for name, run in CONTENDERS.items():
            start = clock()
            step(run, x, y, case.variant, backward=True)
            if number_of_round >= 2:  # the first calls load code and touch memory
                times[name].append(1e6 * (clock() - start))
        if time.perf_counter() - begin > seconds and number_of_round > LEAST:
            break
    middle = {name: round(statistics.median(found), 1) for name, found in times.items()}
    low = {name: round(sorted(found)[len(found) // 10], 1) for name, found in times.items()}
    ratio = statistics.median(mine / dense for mine, dense in zip(times["simtile"], times["torch"], strict=True))
    return {**record, "us": middle, "us_low": low, "ratio": round(ratio, 3), "rounds": len(times["torch"])}


def crossover(rows: list[Record]) -> int | None:
    """The smallest batch from which on tiles are never slower than plain torch, by the fastest tenths."""
    right = [r for r in rows if not r["wrong"]]
    slower = [r["batch"] for r in right if r["us_low"]["tiles"] > r["us_low"]["torch"]]
    return min((r["batch"] for r in right if r["batch"] > max(slower, default=0)), default=None)


def line(row: Record) -> list[object]:
    """A row of the table."""
    start: list[object] = [row["sides"], row["dtype"], row["dim"], row["batch"]]
    if row["wrong"]:
        return [*start, f"WRONG, not timed: {row['wrong']}"]
    us, low = row["us"], row["us_low"]
    times = (f"{us[name]:.0f}" for name in CONTENDERS)
    ratios = (row["ratio"], low["simtile"] / low["torch"], low["tiles"] / low["torch"])
    return [*start, *times, f"{us['simtile'] - us['torch']:+.0f}", *(f"{ratio:.2f}" for ratio in ratios)]


def run(threads: int, *, quick: bool) -> list[Record]:
    """All cases, a process for each of their options; prints the table."""
    seconds = 0.3 if quick else 0.4
    groups: list[list[Record]] = []
    for sides in BENCH.variants:
        for dtype in ("float32", "bfloat16"):
            for dim in DIMS[:1] if quick else DIMS:
                options = {"sides": sides, "dtype": dtype, "dim": dim, "threads": threads, "seconds": seconds}
                arguments = (text for key, value in options.items() for text in (f"--{key}", str(value)))
                groups.append(python(__file__, *arguments, threads=threads)["rows"])
    rows = [row for group in groups for row in group]
    print_table(
        f"InfoNCE of small batches, loss and both gradients, {threads} threads, us; ratios also of the fastest tenths",
        ("sides", "dtype", "D", "B", *CONTENDERS, "simtile - torch", "ratio", "tenth", "tiles, tenth"),
        map(line, rows),
    )
    print_table(
        "Tiles are never slower than plain torch from this batch on",
        ("sides", "dtype", "D", "B"),
        ((*(group[0][key] for key in ("sides", "dtype", "dim")), crossover(group) or "-") for group in groups),
    )
    return rows


def main() -> None:
    parser = race_parser(__doc__)
    parser.add_argument("--sides", choices=BENCH.variants, help="measure these options alone, in this process")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=0.8)
    options: argparse.Namespace = parser.parse_args()
    if options.sides:
        torch.set_num_threads(options.threads)
        cases = [Case(options.sides, options.dtype, batch, options.dim, options.threads) for batch in BATCHES]
        with Disturbance() as disturbance:
            rows = [medians(case, options.seconds) for case in cases]
        print(json.dumps({"rows": rows, "steal": disturbance.steal, "others": disturbance.others}))
        return
    record = {"machine": environment(options.threads), "small_batches": run(options.threads, quick=options.quick)}
    print(f"\n{save('small_batches', record, keep=options.record)}")


if __name__ == "__main__":
    main()
