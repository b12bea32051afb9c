"""The command line: ``simtile <command>``, also ``python -m simtile <command>``."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from simtile import __version__
from simtile._extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

# command -> the module whose main(argv) runs it, and its line in the help. A module is loaded only when asked for: demo
# needs torch, doctor does not.
_COMMANDS = {
    "demo": ("simtile.demo", "train a code search model on this machine's own Python packages, and report"),
    "train": (
        "simtile.trainers",
        "train a small contrastive model (clip, simclr, sentence), measure it, and report",
    ),
    "recipe": ("simtile.recipes", "run one of the papers' recipes on small real data, beside what it should beat"),
    "bench": ("simtile.bench", "measure this machine beside other libraries (from a checkout of the repository)"),
    "hubness-report": ("simtile.hubness.report", "what a hubness correction does to a gallery: table, plots, page"),
    "tune": ("simtile.tune", "race the GPU kernels' launches on this machine's card and keep the fastest"),
    "doctor": ("simtile.doctor", "what this machine offers, which engine each operation takes, and a self-test"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``argv`` defaults to the process's arguments."""
    parser = argparse.ArgumentParser(
        prog="simtile", description="Similarity learning and retrieval without the similarity matrix."
    )
    parser.add_argument("--version", action="version", version=f"simtile {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, line) in _COMMANDS.items():
        # The command's own parser, in its module, answers --help and every other option.
        commands.add_parser(name, help=line, add_help=False)
    chosen, arguments = parser.parse_known_args(argv)
    try:
        return int(importlib.import_module(_COMMANDS[chosen.command][0]).main(arguments) or 0)
    except ModuleNotFoundError as error:
        advice = missing_extra(error)
        if advice is error:
            raise
        print(f"simtile {chosen.command}: {advice}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
