"""``simtile doctor``: what this machine offers, which engine each operation takes and why, and a self-test.

The self-test runs the Rust engine on every instruction set of this processor against the float64 specification,
:mod:`simtile.kernels.reference`, and takes about two seconds. Needs neither torch nor triton. Exit code 1 on a failure.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import simtile
from simtile import _selftest
from simtile._extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

SHAPE = (8192, 8192, 384)
"""A large batch of sentence embeddings: the job whose engines the report names."""


@dataclass(frozen=True)
class Package:
    """An optional package: the imported module, or why there is none."""

    module: ModuleType | None
    reason: str

    def __str__(self) -> str:
        return str(getattr(self.module, "__version__", "installed")) if self.module else self.reason


def find(name: str) -> Package:
    """Import an optional package; a broken installation is reported, not raised."""
    try:
        return Package(importlib.import_module(name), "")
    except ModuleNotFoundError as error:
        return Package(None, "not installed" if error.name == name else f"broken: {error}")
    except (ImportError, OSError) as error:  # a missing shared library
        return Package(None, f"broken: {error}")


def gpu(torch: Package) -> str:
    """The GPU that torch sees, or why it sees none."""
    if torch.module is None:
        return "unknown without torch"
    if torch.module.cuda.is_available():
        return str(torch.module.cuda.get_device_name())
    built = torch.module.version.cuda or torch.module.version.hip
    return "none visible to torch" if built else "none: this torch is built for the CPU only"


def engines(isa: str, torch: Package) -> list[tuple[str, str, str]]:
    """(operations, engine and plan, why) for all that simtile does here with ``SHAPE``.

    The losses ask :func:`simtile.explain`, hence the code that makes the choice when they run.
    """
    rows = [("search", f"Rust {isa}", "NumPy arrays and torch tensors")]
    if torch.module is None:
        return [*rows, ("losses", "none", str(missing_extra(ModuleNotFoundError(name="torch"))))]
    from simtile._plan import OPS, explain

    # The choice for a GPU can be asked without one, and shows whether triton would serve it.
    gpu_label = "cuda" if torch.module.cuda.is_available() else "cuda (none here)"
    for device, label in (("cpu", "cpu"), ("cuda", gpu_label)):
        for name in ("float32", "bfloat16", "float64"):
            dtype = getattr(torch.module, name)
            operations: dict[tuple[str, str], list[str]] = {}
            for op in OPS:
                plan = explain(op, *SHAPE, dtype=dtype, device=device)  # type: ignore[arg-type]  # op is one of its OPS
                choice = f"{plan.engine}, {plan.name}", f"{plan.engine_reason}; {plan.reason}"
                operations.setdefault(choice, []).append(op)
            rows += [(f"{name} {label}: {', '.join(ops)}", *choice) for choice, ops in operations.items()]
    return rows


def main(argv: Sequence[str]) -> int:
    """Print the report; 0 if every check of the self-test passed, otherwise 1."""
    argparse.ArgumentParser(prog="simtile doctor", description=__doc__.partition("\n")[0]).parse_args(argv)
    torch, triton = find("torch"), find("triton")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"simtile {simtile.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, ", end="")
    print(f"{platform.system()} {platform.machine()}")
    core = find("simtile._core")
    if core.module is None:
        print(f"Rust engine  {core}")
        return 1
    isas: list[str] = core.module.isas()
    print(f"CPU          {', '.join(isas)}: the first is used; {threads} threads may run")
    print(f"torch        {torch}{f', {torch.module.get_num_threads()} threads' if torch.module else ''}")
    print(f"triton       {triton}")
    print(f"GPU          {gpu(torch)}")
    print("\nWhich engine does what, and why, for {:,} x {:,} pairs of {} coordinates".format(*SHAPE))
    for operations, engine, why in engines(isas[0], torch):
        print(f"  {operations}\n    {engine:25s}{why}")
    return self_test(isas)


def self_test(isas: Iterable[str]) -> int:
    """Check every instruction set and print a line for each; 0 or 1."""
    print("\nSelf-test against the float64 reference")
    started, failed = time.perf_counter(), 0
    for isa in isas:
        checks = _selftest.run(isa)
        wrong = [check for check in checks if not check.passed]
        failed += len(wrong)
        worst = max(checks, key=lambda check: check.error / check.limit)
        print(f"  {isa:13s}{'FAILED' if wrong else 'ok':8s}{len(checks)} checks, worst: {worst}")
        for check in wrong:
            print(f"    wrong: {check}")
    print(f"  {'FAILED' if failed else 'passed'} in {time.perf_counter() - started:.1f} s")
    return 1 if failed else 0
