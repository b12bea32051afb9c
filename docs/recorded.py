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


def processor() -> Any:
    """Results of the processor that was measured last."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*-cores.json")]
    return max(files, key=lambda results: str(results["machine"]["date"]))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Markdown; ``align`` has a letter a column, "r" for numbers."""
    rules = ["--:" if letter == "r" else "---" for letter in align.ljust(len(header), "l")]
    return "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in (header, rules, *rows))


def not_recorded(command: str) -> str:
    """In the place of a table whose run is not kept yet."""
    return f"Not recorded yet: `{command}` does."
