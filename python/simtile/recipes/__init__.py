"""Recipes: what simtile has for each of 57 papers on similarity learning, run on small real data.

    simtile recipe --list            every paper, and whether it has a recipe
    simtile recipe supremix          run one; prints what it shows beside the baseline that it should beat
    simtile recipe all --json F      run all, and keep what they measured; some: the others in F stay

``pip install "simtile[train]"`` brings what they need; nothing is downloaded. A row is a file in ``papers/``
(:mod:`simtile.recipes.registry`), a recipe a function that returns an :class:`Outcome`; the claim, its baseline and its
margin are in the row.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simtile.recipes.claim import Outcome, Verdict, judge, mean_outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simtile.recipes.registry import Paper

__all__ = ["Outcome", "Verdict", "judge", "main", "run"]


def run(paper: Paper, *, tiny: bool = False, **overrides: Any) -> Outcome:
    """Run the recipe of ``paper``; ``overrides`` replace keywords of its configuration.

    A list of seeds means a run with each, and the mean of what they measured.

    Raises
    ------
    ValueError      a paper without a recipe, or an override that its configuration does not have
    """
    if paper.recipe is None:
        raise ValueError(f"paper: {paper.id} has no recipe: {paper.remarks}")
    options = paper.recipe.options(tiny=tiny)
    if unknown := sorted(set(overrides) - set(options)):
        raise ValueError(f"overrides: {paper.id} has no {', '.join(unknown)}, only {', '.join(sorted(options))}")
    function, options = paper.recipe.function(), {**options, **overrides}
    seeds = options.get("seed")
    if not isinstance(seeds, list):
        return function(**options)
    return mean_outcome({seed: function(**{**options, "seed": seed}) for seed in seeds})


def main(argv: Sequence[str] | None = None) -> int:
    """Run recipes; returns 0, 1 if a claim does not hold, or 2 if there is no such recipe."""
    parser = argparse.ArgumentParser(
        prog="simtile recipe", description="Run a paper's recipe on small real data, beside what it should beat."
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="of --list; all: every one that can be run")
    parser.add_argument("--list", action="store_true", help="print the papers and stop")
    parser.add_argument("--tiny", action="store_true", help="the setting of the tests, a second or two each")
    parser.add_argument(
        "--json", metavar="FILE", help="write what was measured there; what it has of other recipes stays"
    )
    wanted = parser.parse_args(argv)
    from simtile.recipes.registry import papers

    every = papers()
    if wanted.list or not wanted.ids:
        _print_list(every)
        return 0
    chosen = [id for id, paper in every.items() if paper.recipe] if wanted.ids == ["all"] else wanted.ids
    for id in chosen:
        if id not in every:
            near = difflib.get_close_matches(id, every)
            hint = f"; do you mean {', '.join(near)}?" if near else "; see simtile recipe --list"
            print(f"simtile recipe: no paper {id!r}{hint}", file=sys.stderr)
            return 2
        if every[id].recipe is None:
            print(f"simtile recipe: {id} has no recipe: {every[id].remarks}", file=sys.stderr)
            return 2
    results = {id: _run_one(every[id], tiny=wanted.tiny) for id in chosen}
    if wanted.json:
        _record(Path(wanted.json), results, order=list(every))
    return 0 if all(result["holds"] for result in results.values()) else 1


def _run_one(paper: Paper, *, tiny: bool) -> dict[str, Any]:
    """Run, print, and return what is worth keeping."""
    assert paper.recipe is not None
    print(f"\n{paper.id}: {paper.title}{f' ({paper.paper})' if paper.paper else ''}", flush=True)
    start, cpu_start = time.monotonic(), time.process_time()
    outcome = run(paper, tiny=tiny)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    verdict = judge(paper.recipe, outcome, tiny=tiny)
    rows = {
        **outcome.table,
        f"MEASURED  {paper.recipe.shows}": outcome.measured,
        f"BASELINE  {paper.recipe.baseline}": outcome.baseline,
    }
    for name, value in rows.items():
        print(f"  {value:12.6g}  {name}")
    print(f"  {verdict.sentence}; {seconds:.1f} s, {cpu_seconds:.1f} CPU s", flush=True)
    return {
        "measured": outcome.measured, "baseline": outcome.baseline, "table": dict(outcome.table),
        "holds": verdict.holds, "margin": paper.recipe.bar(tiny=tiny), "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }  # fmt: skip


def _record(file: Path, results: dict[str, Any], *, order: list[str]) -> None:
    """Write results; those of other recipes that the file has stay, in the registry's order."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows = {**kept, **results}
    file.write_text(json.dumps({id: rows[id] for id in order if id in rows}, indent=1) + "\n", encoding="utf-8")


def _print_list(every: dict[str, Paper]) -> None:
    width = max(map(len, every), default=0)
    for paper in every.values():
        print(
            f"{paper.number:3d}  {paper.tier}  {paper.id:{width}}  {'recipe' if paper.recipe else '-':6}  {paper.title}"
        )
