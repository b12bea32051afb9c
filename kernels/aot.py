"""Compiles every kernel for every target without a GPU, and fails on what would make it slow or unlaunchable.

    python -m simtile.kernels.aot            the representative table
    python -m simtile.kernels.aot --all      every kernel, operand class and target
    python -m simtile.kernels.aot --update   writes the registers to figures.json, the bar of the next run

Gates: no register spill, shared memory within the target's limit (the compiler does not check it, a launch would fail),
the target's tensor-core instruction present, no more registers than recorded, and at most one exponential per element
where a kernel promises that. The figures come from the target's own assembler (ptxas, LLVM); they rank tiles and catch
regressions, and say nothing about time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from simtile.kernels.aot_table import Case, cases
from simtile.kernels.launch import Architecture

FIGURES = Path(__file__).with_name("figures.json")
_NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_DIVISIBLE = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Target:
    """A compiler target, the shared memory that a block may have, and how its tensor cores are spelled."""

    gpu: GPUTarget
    shared_limit: int
    instruction: str  # regular expression in the PTX or the AMD assembly


TARGETS: dict[Architecture, Target] = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163 << 10, r"\bmma\.sync"),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 << 10, r"wgmma\.mma_async"),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 << 10, r"tcgen05\.mma"),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 << 10, r"\bv_mfma"),
}


@dataclass(frozen=True)
class Figures:
    """Static figures of one compiled kernel."""

    registers: int  # per thread; vector registers on AMD
    spills: int  # instructions that touch local memory on NVIDIA, spilled registers on AMD
    shared: int  # bytes
    tensor_core: int  # tensor-core instructions
    exponentials: float  # per element of the tile


def compile_case(case: Case) -> Any:
    """Triton's compiled kernel, with the operands specialised as a launch with aligned tensors would."""
    names = [parameter.name for parameter in case.kernel.params]
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def visit(path: tuple[int, ...], value: Any) -> Any:
        if isinstance(value, tuple):
            parts = [visit((*path, i), part) for i, part in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if isinstance(value, str) and (value.startswith("*") or value in {"i32", "i64"}):
            if value.startswith("*") or names[path[0]] in case.divisible:
                attributes[path] = _DIVISIBLE
            return value
        constants[path] = value
        return "constexpr"

    for i, name in enumerate(names):
        signature[name] = visit((i,), case.arguments[name])
    source = ASTSource(case.kernel, signature, constants, attributes)
    return triton.compile(source, target=TARGETS[case.architecture].gpu, options=dict(case.launch.options))


def measure(case: Case) -> Figures:
    """Compiles a case and reads its figures out of the assembly."""
    compiled = compile_case(case)
    target = TARGETS[case.architecture]
    elements = case.launch.block_m * case.launch.block_n / (case.launch.warps * target.gpu.warp_size)
    if target.gpu.backend == "hip":
        text = compiled.asm["amdgcn"]
        registers, spills = _number(r"\.vgpr_count:\s+(\d+)", text), _number(r"\.vgpr_spill_count:\s+(\d+)", text)
        exponentials = len(re.findall(r"\bv_exp_f32", text))
    else:
        text = compiled.asm["ptx"]
        registers = _number(r"REG:(\d+)", _tool("cuobjdump", compiled.asm["cubin"], "-res-usage"))
        assembly = _tool("nvdisasm", compiled.asm["cubin"], "-c")
        spills = len(re.findall(r"\s(?:LDL|STL)[. ]", assembly))
        exponentials = len(re.findall(r"\sMUFU\.EX2", assembly))
    return Figures(
        registers=registers,
        spills=spills,
        shared=compiled.metadata.shared,
        tensor_core=len(re.findall(_instruction(case), text)),
        exponentials=round(exponentials / elements, 2),
    )


def _measure_named(name: str) -> Figures:
    """For worker processes: a case holds a kernel, which cannot be pickled."""
    return measure(next(case for case in cases() if case.name == name))


def faults(case: Case, figures: Figures, recorded: dict[str, Any] | None) -> list[str]:
    """What is wrong with a case, in words; empty if nothing is."""
    target = TARGETS[case.architecture]
    found = []
    if figures.spills:
        found.append(f"{figures.spills} spills")
    if figures.shared > target.shared_limit:
        found.append(f"{figures.shared} bytes of shared memory, the limit is {target.shared_limit}")
    if case.tensor_core and not figures.tensor_core:
        found.append(f"no {_instruction(case)} instruction")
    # One and a few: the shift of a row or a reduction adds some that are not per element.
    if case.exponentials is not None and figures.exponentials > case.exponentials + 0.1:
        found.append(f"{figures.exponentials} exponentials per element, promised {case.exponentials}")
    if recorded is None:
        found.append("no recorded figure: run with --update")
    elif figures.registers > recorded["registers"]:
        found.append(f"{figures.registers} registers, recorded {recorded['registers']}")
    return found


def _instruction(case: Case) -> str:
    """The target's tensor-core instruction; warp-group instructions are 64 rows high, below them it is mma.sync."""
    target = TARGETS[case.architecture]
    flat = (case.rows or case.launch.block_m) < 64
    return r"\bmma\.sync" if flat and target.gpu.backend == "cuda" else target.instruction


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"the assembler's output has no {pattern!r}")
    return int(match[1])


def _tool(name: str, cubin: bytes, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_NVIDIA_TOOLS / name), *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the number of failed cases, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m simtile.kernels.aot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every case, not only the representative ones")
    parser.add_argument("--update", action="store_true", help="record the registers of the cases that ran")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: the interpreter compiles nothing")

    recorded = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    same_compiler = recorded.get("triton") == triton.__version__
    figures_of = recorded.get("figures", {}) if same_compiler else {}
    if not same_compiler and not options.update:
        print(
            f"triton {triton.__version__}: registers are not compared, {FIGURES.name} has those of triton "
            f"{recorded.get('triton')}; spills, shared memory, instructions and exponentials are gated as ever"
        )
    chosen = [case for case in cases() if (options.all or case.representative) and options.only in case.name]
    print(f"{'case':58} {'tile':>14} {'regs':>4} {'spill':>5} {'shared':>7} {'mma':>4} {'exp':>5}")
    failed = 0
    with ProcessPoolExecutor(options.processes) as pool:
        measured = pool.map(_measure_named, [case.name for case in chosen])
        for case, figures in zip(chosen, measured, strict=True):
            comparable = same_compiler and not options.update
            found = faults(case, figures, figures_of.get(case.name) if comparable else asdict(figures))
            failed += bool(found)
            launch = case.launch
            tile = f"{launch.block_m}x{launch.block_n}x{launch.block_k} w{launch.warps}s{launch.stages}"
            print(
                f"{case.name:58} {tile:>14} {figures.registers:4} {figures.spills:5} {figures.shared:7} "
                f"{figures.tensor_core:4} {figures.exponentials:5}  {'; '.join(found)}",
                flush=True,
            )
            figures_of[case.name] = asdict(figures)
    if options.update:
        text = json.dumps({"triton": triton.__version__, "figures": dict(sorted(figures_of.items()))}, indent=1)
        FIGURES.write_text(text + "\n")
    print(f"{len(chosen)} cases, {failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
