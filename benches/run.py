"""`simtile bench`, `make bench`: the benches of this checkout, as tables, one JSON file and one page of plots.

    python benches/run.py                        every suite, without other libraries
    python benches/run.py losses search --peers  two suites, beside the peers that are installed
    python benches/run.py --quick --peers        the main shapes alone, under three minutes on two quiet cores
    python benches/run.py all --peers --record   keep the results as benches/results/<processor>.json

The first run compiles the programs of ``microkernel/``, which takes a minute more. The JSON is written after every
suite, so that a run that is stopped keeps what it measured. GPU: ``gpu.py``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import suites
from harness import race_parser, save
from machine import OUT, Record, environment
from report import write_report


def chosen(names: list[str]) -> list[str]:
    """In the order in which they run; "all" and nothing mean all."""
    return [name for name in suites.SUITES if not names or "all" in names or name in names]


def main() -> None:
    parser = race_parser(__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"{', '.join(suites.SUITES)} or all (the default)")
    parser.add_argument("--peers", action="store_true", help="beside other libraries, where installed")
    parser.add_argument("--output", type=Path, default=OUT / "report", help="folder of the page")
    options: argparse.Namespace = parser.parse_args()
    unknown = set(options.suites) - {*suites.SUITES, "all"}
    if unknown:
        parser.error(f"suite: one of {', '.join(suites.SUITES)} and all, got {', '.join(sorted(unknown))}")
    if options.quick and options.record:
        parser.error("--record: keeps full runs only, got --quick")
    results: Record = {"machine": environment(options.threads), "quick": options.quick, "not_run": [], "seconds": {}}
    m = results["machine"]
    print(f"{m['cpu']}, {m['cores']} cores, {m['isa']}; torch {m['torch']}, simtile {m['simtile']} ({m['commit']})")
    print(f'load before the run: {m["load_before"][0]:.1f} ("disturbed" = the share taken by others or stolen)')
    for name in chosen(options.suites):
        started = time.monotonic()
        suites.SUITES[name](options, results)
        results["seconds"][name] = round(time.monotonic() - started, 1)
        path = save("bench", results, keep=options.record)
    for entry in results["not_run"]:
        print(f"not run: {entry['suite']}: {entry['what']}: {entry['why']}")
    print(f"\n{path}, {sum(results['seconds'].values()):.0f} s\n{write_report(results, options.output)}")


if __name__ == "__main__":
    main()
