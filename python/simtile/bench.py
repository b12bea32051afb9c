"""``simtile bench``: run the benchmarks of the checkout that this package was installed from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run ``benches/run.py`` with these arguments; 2 where there is none, since a wheel carries no benchmarks."""
    script = Path(__file__).resolve().parents[2] / "benches" / "run.py"
    if not script.is_file():
        print(
            "simtile bench: the benchmarks are in the repository, not in the installed package; "
            "clone it and run `make bench` there",
            file=sys.stderr,
        )
        return 2
    return subprocess.run([sys.executable, str(script), *argv], check=False).returncode
