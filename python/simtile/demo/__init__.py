"""The main job: a code search model, trained on this machine's own Python packages and tested on packages never seen.

``simtile demo`` (or ``make demo``) harvests docstring -> code pairs, trains a static-embedding encoder with InfoNCE
at a batch of thousands on the CPU, and writes ``report/index.html``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with these command-line arguments and return its exit code."""
    from simtile.demo.job import run

    return run(argv)
