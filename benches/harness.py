"""Races between contenders: a process for each contender and case, in interleaved rounds, correctness before timing.

Two libraries' thread pools in one process halve each other's speed, hence the processes. On a shared machine only the
ratios within one run mean anything, hence the rounds: in each, every contender runs once. A contender whose loss or
gradients disagree with float64 on a small batch of the same options is reported as wrong and is not timed.

A bench file declares a :class:`Bench` and ends with ``main(bench, ...)``, which gives it

    python benches/bench_info_nce.py [--quick] [--record]                         the race, as tables and as JSON
    python benches/bench_info_nce.py --one simtile --sides two --batch 8192 ...   one process: prints one JSON line
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from machine import BENCHES, OUT, RESULTS, Ceilings, Disturbance, PeakMemory, Record, environment, slug

CHECK_BATCH = 601
"""Rows of the correctness check: beyond what is small enough for stored scores, and no multiple of a tile."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative error (2-norm) that a contender may have. Plain torch has 1e-6 and 8e-3; tests/ judge far more finely."""

SECONDS = 12.0
"""A process stops repeating after this long, once it has three repetitions."""

Contender = Callable[..., tuple[Tensor, ...]]
"""(x, y, variant) -> results, differentiable if the bench has a backward pass; then the first is a scalar loss."""


@dataclass(frozen=True)
class Case:
    """One shape and its options."""

    variant: str
    dtype: str = "float32"
    batch: int = 8192
    dim: int = 384
    threads: int = 2

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def unit(self) -> float:
        """FLOP of one product of all pairs."""
        return 2.0 * self.batch**2 * self.dim


@dataclass(frozen=True)
class Bench:
    """What competes in what."""

    file: str
    option: str
    """Name of the command-line option that chooses the variant."""
    variants: Mapping[str, int]
    """Each variant with the units 2·B·B·D that our plan computes."""
    contenders: Mapping[str, Contender]
    """Ours first, then plain torch."""
    exact: Contender
    """The same results in float64, by the reference."""
    backward: bool = True

    @property
    def stem(self) -> str:
        return Path(self.file).stem.removeprefix("bench_")


def inputs(case: Case, batch: int | None = None) -> tuple[Tensor, Tensor]:
    """Unit rows x and y (B, D), cosine of partners about 1/6: losses near 1 at any batch.

    Much closer partners make the loss of a small batch so small that bfloat16 logits cannot hold it.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (batch or case.batch, case.dim)
    x = torch.randn(shape, generator=generator)
    y = x + 6.0 * torch.randn(shape, generator=generator)
    return F.normalize(x).to(case.torch_dtype), F.normalize(y).to(case.torch_dtype)


def step(run: Contender, x: Tensor, y: Tensor, variant: str, *, backward: bool) -> list[Tensor]:
    """Results of one call, and the gradients of x and y."""
    if not backward:
        with torch.no_grad():
            return list(run(x, y, variant))
    x.grad = y.grad = None
    (loss,) = run(x, y, variant)
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and y.grad is not None
    return [loss.detach(), x.grad, y.grad]


def fault(bench: Bench, run: Contender, case: Case) -> str | None:
    """What is wrong with a contender's results, or None."""
    x, y = inputs(case, min(case.batch, CHECK_BATCH))
    wide = [t.double().requires_grad_(bench.backward) for t in (x, y)]
    exact = step(bench.exact, *wide, case.variant, backward=bench.backward)
    found = step(
        run, x.requires_grad_(bench.backward), y.requires_grad_(bench.backward), case.variant, backward=bench.backward
    )
    names = ("loss", "gradient of x", "gradient of y") if bench.backward else tuple(f"result {i}" for i in range(9))
    for name, mine, right in zip(names, found, exact, strict=False):
        error = float(torch.linalg.vector_norm(mine.double() - right) / torch.linalg.vector_norm(right))
        if not error <= TOLERANCE[case.torch_dtype]:
            return f"{name}: relative error {error:.1e} against float64"
    return "a result is missing" if len(found) != len(exact) else None


def measure(bench: Bench, contender: str, case: Case, repeats: int) -> Record:
    """Check, then time and weigh one contender in this process."""
    torch.set_num_threads(case.threads)
    run = bench.contenders[contender]
    record: Record = {"contender": contender, **asdict(case)}
    wrong = fault(bench, run, case)
    if wrong is not None:
        return {**record, "status": "wrong", "why": wrong}
    x, y = (t.requires_grad_(bench.backward) for t in inputs(case))
    release_free_memory()
    with PeakMemory() as memory:
        step(run, x, y, case.variant, backward=bench.backward)
    times: list[float] = []
    with Disturbance() as disturbance:
        started = time.perf_counter()
        while len(times) < repeats and (len(times) < 3 or time.perf_counter() - started < SECONDS):
            begin = time.perf_counter()
            step(run, x, y, case.variant, backward=bench.backward)
            times.append(1e3 * (time.perf_counter() - begin))
    return {
        **record,
        "status": "ok",
        "ms": [round(t, 3) for t in times],
        "cpu_ms": round(1e3 * disturbance.cpu_seconds / len(times), 3),
        "extra_mb": round(memory.extra / 1e6, 1),
        "steal": disturbance.steal,
        "others": disturbance.others,
    }


def release_free_memory() -> None:
    """Return freed heap to the system, so that what a step allocates counts even where it could reuse freed pages."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


def spawn(bench: Bench, contender: str, case: Case, repeats: int) -> Record:
    """:func:`measure` in a process of its own."""
    options = {
        "one": contender, bench.option: case.variant, "dtype": case.dtype, "batch": case.batch, "dim": case.dim,
        "threads": case.threads, "repeats": repeats,
    }  # fmt: skip
    return python(bench.file, *(text for k, v in options.items() for text in (f"--{k}", str(v))), threads=case.threads)


def python(file: str, *arguments: str, threads: int) -> Record:
    """The JSON in the last line that a Python program prints."""
    command = [sys.executable, file, *arguments]
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


@dataclass
class Entry:
    """All rounds of one contender in one case."""

    contender: str
    case: Case
    processes: list[Record] = field(default_factory=list)

    @property
    def wrong(self) -> str | None:
        return next((str(p["why"]) for p in self.processes if p["status"] == "wrong"), None)

    @property
    def medians(self) -> list[float]:
        """Of each process, in ms."""
        return [statistics.median(p["ms"]) for p in self.processes]

    @property
    def median(self) -> float:
        return statistics.median(self.medians)

    @property
    def cpu_ms(self) -> float:
        """CPU time of a call, all threads together."""
        return statistics.median(p["cpu_ms"] for p in self.processes)

    @property
    def best(self) -> float:
        """The fastest single call."""
        return min(t for p in self.processes for t in p["ms"])

    @property
    def extra_mb(self) -> float:
        return max(p["extra_mb"] for p in self.processes)

    @property
    def disturbed(self) -> float | None:
        """Largest share of the machine that was taken away during a process."""
        shares = [p["steal"] + p["others"] for p in self.processes if p.get("steal") is not None]
        return max(shares) if shares else None


def race(bench: Bench, cases: Iterable[Case], *, rounds: int, repeats: int) -> list[list[Entry]]:
    """Per case the entries of all contenders, measured in turns."""
    results = []
    for case in cases:
        entries = [Entry(name, case) for name in bench.contenders]
        for number in range(rounds):
            for entry in entries:
                if entry.wrong is None:
                    progress(f"{bench.stem} {case.variant} {case.dtype} B={case.batch} D={case.dim}"
                             f"  round {number + 1}/{rounds}  {entry.contender}")  # fmt: skip
                    entry.processes.append(spawn(bench, entry.contender, case, repeats))
        results.append(entries)
    progress("")
    return results


def progress(text: str) -> None:
    """One line that is overwritten, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def rows_of_race(bench: Bench, entries: Sequence[Entry], ceilings: Ceilings) -> list[Record]:
    """What the tables show of one case, the first contender's rate and the ratios of the others' times to its own."""
    ours = entries[0]
    rows = []
    for entry in entries:
        row: Record = {"contender": entry.contender, **asdict(entry.case), "wrong": entry.wrong}
        if entry.wrong is None:
            low, high = min(entry.medians), max(entry.medians)
            row |= {"ms": entry.median, "ms_low": low, "ms_high": high, "ms_best": entry.best}
            row |= {"extra_mb": entry.extra_mb, "disturbed": entry.disturbed}
        if entry is ours and entry.wrong is None:
            flop = bench.variants[ours.case.variant] * ours.case.unit
            rate = flop / (entry.median * 1e6) / ours.case.threads
            row |= {"rate": rate, "share": ceilings.share(rate, ours.case.dtype, ours.case.threads)}
            on_core = flop / (entry.cpu_ms * 1e6)
            row |= {"cpu_rate": on_core, "cpu_share": ceilings.share(on_core, ours.case.dtype, ours.case.threads)}
        elif entry.wrong is None and ours.wrong is None:
            row |= {"conservative": entry.best / max(ours.medians), "ratio": entry.median / ours.median}
        rows.append(row)
    return rows


def print_race(title: str, bench: Bench, rows: Iterable[Record]) -> None:
    """One line a contender and case.

    GFLOP/s per core twice: by the clock, and by CPU time, which stays meaningful while others use the machine. The
    ratios are times of a contender over ours: its best call over our worst process, and medians.
    """
    header = (
        bench.option, "dtype", "D", "contender", "ms", "[min max]", "extra MB", "GFLOP/s/core", "of ceiling",
        "CPU time:", "of ceiling", "conservative", "medians", "disturbed",
    )  # fmt: skip
    table = []
    for row in rows:
        start = [row["variant"], row["dtype"], row["dim"], row["contender"]]
        if row["wrong"] is not None:
            table.append([*start, f"WRONG, not timed: {row['wrong']}"])
            continue
        table.append([
            *start, f"{row['ms']:.1f}", f"[{row['ms_low']:.1f} {row['ms_high']:.1f}]", f"{row['extra_mb']:.0f}",
            number(row.get("rate"), "{:.0f}"), number(row.get("share"), "{:.0%}"),
            number(row.get("cpu_rate"), "{:.0f}"), number(row.get("cpu_share"), "{:.0%}"),
            number(row.get("conservative"), "{:.2f}x"), number(row.get("ratio"), "{:.2f}x"),
            number(row.get("disturbed"), "{:.0%}"),
        ])  # fmt: skip
    print_table(title, header, table)


def number(value: float | None, pattern: str) -> str:
    """Formatted, or a dash."""
    return "-" if value is None else pattern.format(value)


def print_table(title: str, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their longest cell; a row may end early with a longer remark."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max([0, *(len(r[c]) for r in lines if len(r) == len(header))]) for c in range(len(header))]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip())
    sys.stdout.flush()


def save(name: str, record: Record, *, keep: bool) -> Path:
    """Write benches/out/<name>.json, and with ``keep`` the same into the processor's file in benches/results/.

    That file keeps what earlier runs of other benches left in it; ``runs`` says of each part where it came from.
    """
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    if keep:
        RESULTS.mkdir(exist_ok=True)
        kept = RESULTS / f"{slug()}.json"
        old: Record = json.loads(kept.read_text()) if kept.exists() else {}
        source = {key: record["machine"][key] for key in ("commit", "date", "command", "load_before")}
        parts = {key: source for key in record if key not in ("machine", "runs")}
        whole = {**old, **record, "runs": {**old.get("runs", {}), **parts}}
        if "not_run" in record:  # of a run of suites; the others' entries stay
            stays = [entry for entry in old.get("not_run", []) if entry["suite"] not in record["seconds"]]
            whole["not_run"] = stays + record["not_run"]
            whole["seconds"] = {**old.get("seconds", {}), **record["seconds"]}
        kept.write_text(json.dumps(whole, indent=1) + "\n")
    return path.relative_to(BENCHES.parent)


def race_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every race."""
    parser = argparse.ArgumentParser(
        description=(description or "").split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the main shapes alone, 1 round of 5, smaller batches")
    parser.add_argument("--rounds", type=int, help="processes for each contender and case")
    parser.add_argument("--repeats", type=int, help="timed calls in a process")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--record", action="store_true", help="keep the results under benches/results/")
    return parser


def main_batch(options: argparse.Namespace) -> int:
    """Rows of the main races."""
    return 2048 if options.quick else 8192


def rounds_of(options: argparse.Namespace, *, main: bool = True) -> dict[str, int]:
    """Rounds and repetitions: given, or 3 of 5 for the main cases, 2 of 3 for everything else, 1 of 5 of a quick run.

    Starting a process and importing torch takes longer than what a quick run measures in it.
    """
    rounds, repeats = (1, 5) if options.quick else (3, 5) if main else (2, 3)
    return {"rounds": options.rounds or rounds, "repeats": options.repeats or repeats}


def main(bench: Bench, description: str | None, run: Callable[[argparse.Namespace, Ceilings], Record]) -> None:
    """The command line of a bench file: one measurement, or the whole race with its ceilings."""
    parser = race_parser(description)
    parser.add_argument("--one", choices=bench.contenders, help="measure one contender in this process")
    parser.add_argument(f"--{bench.option}", choices=bench.variants, default=next(iter(bench.variants)))
    parser.add_argument("--dtype", choices=[str(d).removeprefix("torch.") for d in TOLERANCE], default="float32")
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    if options.one:
        variant = getattr(options, bench.option)
        case = Case(variant, options.dtype, options.batch, options.dim, options.threads)
        print(json.dumps(measure(bench, options.one, case, options.repeats or 5)))
        return
    ceilings = Ceilings.measured(options.threads)
    machine = environment(options.threads)
    record = {"machine": machine, "ceilings": ceilings.records, bench.stem: run(options, ceilings)}
    print(f"\n{save(bench.stem, record, keep=options.record)}")
