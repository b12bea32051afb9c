"""A run's ``train.json`` and ``index.html``."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import torch

from simtile import __version__
from simtile.trainers.curve import loss_curve

if TYPE_CHECKING:
    from simtile.trainers.loop import Result


def print_table(result: Result) -> None:
    """Metrics before and after."""
    width = max(map(len, result.after))
    print(f"\n{'':{width}}  untrained  trained")
    for name, value in result.after.items():
        print(f"{name:{width}}  {result.before[name]:9.4f}  {value:7.4f}")
    print()


def write_report(result: Result, output: Path) -> Path:
    """Write both files into the folder ``output``, made if need be; returns the path of the HTML file."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "train.json").write_text(json.dumps(as_json(result), indent=1) + "\n", encoding="utf-8")
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    path = output / "index.html"
    path.write_text(
        template.substitute(
            task=escape(result.task),
            metrics="".join(
                f"<tr><th scope=row>{escape(name)}</th><td>{result.before[name]:.4f}</td><td>{value:.4f}</td></tr>"
                for name, value in result.after.items()
            ),
            curve=loss_curve(result.losses),
            facts="".join(
                f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in _facts(result)
            ),
        ),
        encoding="utf-8",
    )
    return path


def as_json(result: Result) -> dict[str, Any]:
    """Everything but paths."""
    return {
        "task": result.task, "settings": result.settings.fixed(), "ranks": result.ranks, "before": result.before,
        "after": result.after, "facts": result.facts, "seconds": result.seconds, "losses": result.losses,
        "versions": {"simtile": __version__, "torch": torch.__version__},
    }  # fmt: skip


def _facts(result: Result) -> list[tuple[str, object]]:
    return [
        *result.settings.fixed().items(), ("processes", result.ranks), *result.facts.items(),
        *((name, f"{seconds:.1f} s") for name, seconds in result.seconds.items()),
    ]  # fmt: skip
