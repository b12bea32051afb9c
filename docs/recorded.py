"""What was recorded in benches/results/, and Markdown tables of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches" / "results"
sys.path.insert(0, str(ROOT / "benches"))

import report as report  # noqa: E402


def read(name: str) -> Any:
    """A file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


INSTRUCTIONS = {"avx512_bf16": "AVX-512", "avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON", "portable": "no SIMD"}
"""Instruction sets, the widest first, and their names in captions."""


def processors() -> list[Any]:
    """Results of every processor: the widest instruction set first, of equal ones what was measured last."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*-cores.json")]
    files.sort(key=lambda results: str(results["machine"]["date"]), reverse=True)
    return sorted(files, key=lambda results: list(INSTRUCTIONS).index(results["machine"]["isa"]))


def processor(part: str) -> Any:
    """Results of the first of `processors` on which this part was measured; None where it was on none."""
    return next((results for results in processors() if part in results), None)


def on(results: Any) -> str:
    """The processor of results, for a caption."""
    return f"an {results['machine']['cpu']} with {INSTRUCTIONS[results['machine']['isa']]}"


def command(results: Any, part: str) -> str:
    """What measured this part."""
    return str(results["runs"][part]["command"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Markdown; ``align`` has a letter a column, "r" for numbers."""
    rules = ["--:" if letter == "r" else "---" for letter in align.ljust(len(header), "l")]
    return "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in (header, rules, *rows))


def not_recorded(command: str) -> str:
    """In the place of a table whose run is not kept yet."""
    return f"Not recorded yet: `{command}` does."
