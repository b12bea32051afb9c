"""What a figure was measured on: processor, versions, commit, who else was busy, and the ceilings of a core.

The ceilings are measured, not looked up: ``microkernel/`` runs multiply-adds on registers alone. A rate beside its
ceiling can be compared between machines, a rate in GFLOP/s cannot.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

import simtile
from simtile import _core

BENCHES = Path(__file__).resolve().parent
OUT = BENCHES / "out"
RESULTS = BENCHES / "results"
PROJECT = BENCHES / "microkernel"

Record: TypeAlias = dict[str, Any]

PEERS = (
    "diskannpy-rust", "faiss-cpu", "hnswlib", "lightly", "nnn-retrieval", "open_clip_torch", "pytorch-metric-learning",
    "rabitqlib", "scikit-learn", "sentence-transformers", "usearch",
)  # fmt: skip
"""Distributions that some bench compares with."""


def repeatable(arguments: list[str]) -> list[str]:
    """Arguments without ``--data FILE`` and ``--json FILE``: paths of this machine alone, which change no result."""
    paths = {"--data", "--json"}
    return [a for i, a in enumerate(arguments) if not paths.intersection(arguments[max(0, i - 1) : i + 1])]


def raced_dtypes() -> tuple[str, ...]:
    """Types of the losses' races: bfloat16 where the processor multiplies it. Elsewhere torch takes minutes a step."""
    return ("float32", "bfloat16") if _core.isas()[0] == "avx512_bf16" else ("float32",)


def environment(threads: int) -> Record:
    """Processor, versions and commit, as they go into the JSON."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "isa": _core.isas()[0],
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "simtile": simtile.__version__,
        "kernel": platform.release(),
        "load_before": os.getloadavg(),
        "command": " ".join(["python", f"benches/{Path(sys.argv[0]).name}", *repeatable(sys.argv[1:])]),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
        "blas": blas(),
        "peers": {name: version for name in PEERS if (version := version_of(name)) is not None},
    }


def version_of(distribution: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def blas() -> list[str] | None:
    """Thread pools and BLAS libraries of this process, with the kernel that each took; None without threadpoolctl."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    from threadpoolctl import threadpool_info

    kinds = ("internal_api", "version", "architecture")
    return sorted({" ".join(str(pool[k]) for k in kinds if pool.get(k)) for pool in threadpool_info()})


def cpu_name() -> str:
    """The model, with family and model number: virtual machines often say no more than the maker's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    field = {name: match[1] for name in ("model name", "cpu family", "model") if (match := _field(name, text))}
    if "model name" not in field:
        return platform.machine()
    return f"{field['model name']} (family {field.get('cpu family')}, model {field.get('model')})"


def _field(name: str, text: str) -> re.Match[str] | None:
    return re.search(rf"^{name}\s*:\s*(.+?)\s*$", text, re.MULTILINE)


def slug() -> str:
    """The processor as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu_name()} {os.cpu_count()} cores".lower()).strip("-")


def commit() -> str:
    """The commit, with "+" where the working tree differs from it; "unknown" outside of Git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=BENCHES, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Disturbance:
    """Which share of the machine something else took: ``steal`` by the hypervisor, ``others`` by other processes.

    Enter, run, leave; then read ``steal`` and ``others``, both of all cores' time and None where /proc is missing, and
    ``cpu_seconds``, the CPU time that this process used.
    """

    steal: float | None = None
    others: float | None = None
    cpu_seconds = 0.0

    def __enter__(self) -> Disturbance:
        self._before = _jiffies(), _own_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        (before, own_before), (after, own_after) = self._before, (_jiffies(), _own_seconds())
        self.cpu_seconds = own_after - own_before
        if before is None or after is None or sum(after) == sum(before):
            return
        spent = [b - a for a, b in zip(before, after, strict=True)]
        total = sum(spent)
        idle, stolen = spent[3] + spent[4], spent[7]
        own = self.cpu_seconds * os.sysconf("SC_CLK_TCK")
        self.steal = round(stolen / total, 4)
        self.others = round(max(0.0, total - idle - stolen - own) / total, 4)


def _jiffies() -> list[int] | None:
    """user nice system idle iowait irq softirq steal; the guest columns behind them are counted in user already."""
    try:
        return [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class PeakMemory:
    """Extra peak memory of what runs inside, in bytes: the high-water mark over what was resident on entry.

    Linux resets the mark through /proc/self/clear_refs. Elsewhere the mark of the whole process stands in: right as
    long as what runs inside is the largest thing so far.
    """

    extra = 0

    def __enter__(self) -> PeakMemory:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._before = _high_water()
        else:
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.extra = max(0, _high_water() - self._before)


def available_memory() -> float:
    """Bytes that a process could still take; infinity where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return float("inf")
    return 1024.0 * int(found[1]) if found else float("inf")


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, field
    return 1024 * int(found[1])


def _high_water() -> int:
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@functools.cache
def _microkernel_program() -> Path:
    manifest = str(PROJECT / "Cargo.toml")
    build = ["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", manifest]
    subprocess.run(build, check=True)
    return PROJECT / "target/release/simtile-microkernel-bench"


def microkernel(*arguments: str) -> list[Record]:
    """Build ``microkernel/`` (the first time: about a minute), run it, and return the records that it prints."""
    command = [_microkernel_program(), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


class Ceilings:
    """Measured multiply-add rates of a core, in GFLOP/s (GOP/s for bytes)."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    @classmethod
    def measured(cls, threads: int) -> Ceilings:
        """None at all where no cargo could build the program that measures them: shares are then unknown."""
        return cls(microkernel("ceilings", str(threads)) if shutil.which("cargo") else [])

    def rate(self, dtype: str, threads: int = 1, isa: str | None = None) -> float | None:
        """Of ``threads`` busy cores, each; None where ``isa`` (default: the best) has no such instruction."""
        isa = isa or _core.isas()[0]
        found = [r for r in self.records if (r["isa"], r["dtype"], r["threads"]) == (isa, dtype, threads)]
        return float(found[0]["rate"]) if found else None

    def share(self, rate: float, dtype: str, threads: int = 1, isa: str | None = None) -> float | None:
        """``rate`` per core over the ceiling."""
        ceiling = self.rate(dtype, threads, isa)
        return rate / ceiling if ceiling else None
