"""``simtile hubness-report``: what a correction does to a gallery, as a table, plots and one page of HTML.

    simtile hubness-report --gallery items.npy --queries queries.npy --bank bank.npy --method nnn --output report

Vectors are .npy files (N, D) or arrays of a safetensors file. With ``--truth`` (integers, each query's right item)
recall is reported too; with ``--names`` (a line an item) the largest hubs have names.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile._extras import missing_extra
from simtile.hubness._methods import DUAL, METHODS
from simtile.hubness.metrics import HubnessReport, RetrievalReport, hubness_report, ranks_in_lists, retrieval_report
from simtile.hubness.reducer import HubnessReducer
from simtile.search import ExactIndex

HUBS, EXAMPLES = 8, 3
"""Largest hubs shown, and queries that each of them answers."""

LABELS = (
    ("skewness", "k-occurrence skewness", "{:.2f}"),
    ("truncated_skewness", "skewness of a normal cut at 0", "{:.2f}"),
    ("robin_hood", "Robin Hood index", "{:.3f}"),
    ("gini", "Gini coefficient", "{:.3f}"),
    ("atkinson", "Atkinson index", "{:.3f}"),
    ("hub_occurrence", "places taken by hubs (N_k > 2k)", "{:.1%}"),
    ("anti_hub_occurrence", "anti-hubs (in no list)", "{:.1%}"),
    ("groupie_ratio", "queries with the largest hub", "{:.1%}"),
    ("largest_hub", "largest hub", "{:,}"),
)


@dataclass(frozen=True)
class Comparison:
    """Lists before and after a correction, their figures, and recall where the answers are known."""

    reducer: HubnessReducer
    ids: dict[str, NDArray[np.int64]]
    hubness: dict[str, HubnessReport]
    retrieval: dict[str, RetrievalReport]

    def rows(self) -> list[tuple[str, str, str]]:
        """(label, before, after)."""
        before, after = self.hubness["before"], self.hubness["after"]
        rows = [(label, form.format(getattr(before, n)), form.format(getattr(after, n))) for n, label, form in LABELS]
        if self.retrieval:
            first, second = self.retrieval["before"], self.retrieval["after"]
            pairs = [(f"recall@{k}", first.recall_at[k], second.recall_at[k]) for k in first.recall_at]
            pairs.append((f"MRR@{before.k}", first.mrr, second.mrr))
            rows += [(label, f"{100 * a:.1f}", f"{100 * b:.1f}") for label, a, b in pairs]
        return rows


def compare(reducer: HubnessReducer, queries: Any, k: int = 10, *, ground_truth: Any = None) -> Comparison:
    """Search with and without the correction of a fitted reducer.

    Parameters
    ----------
    queries : (M, D)
    ground_truth : integers (M,) or None      each query's right item, for recall
    """
    n = len(reducer.gallery_)
    raw = ExactIndex(reducer.gallery_, metric=reducer.metric).search(queries, k)[1]
    ids = {"before": raw, "after": reducer.search(queries, k)[1]}
    retrieval = {}
    if ground_truth is not None:
        ks = sorted({1, min(5, k), k})
        retrieval = {w: retrieval_report(ranks_in_lists(found, ground_truth), ks) for w, found in ids.items()}
    return Comparison(reducer, ids, {w: hubness_report(found, n) for w, found in ids.items()}, retrieval)


def table(comparison: Comparison) -> str:
    """For the terminal."""
    rows = [("", "before", "after"), *comparison.rows()]
    widths = [max(len(row[c]) for row in rows) for c in range(3)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])]) for row in rows
    )


def write(
    comparison: Comparison, output: Path, *, names: Sequence[str] | None = None, queries: Sequence[str] | None = None
) -> Path:
    """Write ``index.html`` (one file), ``k_occurrence.png`` and ``lorenz.png``; returns the path of the page.

    Parameters
    ----------
    names, queries : sequences of str or None      texts of the items and of the queries, for the list of hubs
    """
    try:
        from simtile.hubness import plots
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    output.mkdir(parents=True, exist_ok=True)
    figures = {"k_occurrence": plots.k_occurrence(comparison.hubness), "lorenz": plots.lorenz(comparison.hubness)}
    for name, png in figures.items():
        (output / f"{name}.png").write_bytes(png)
    images = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in figures.items()}
    cells = [tuple(map(escape, row)) for row in comparison.rows()]
    body = "".join(f"<tr><th scope=row>{a}</th><td>{b}</td><td>{c}</td></tr>" for a, b, c in cells)
    report = comparison.hubness["before"]
    page = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        method=escape(repr(comparison.reducer)),
        n_gallery=f"{len(report.k_occurrence):,}",
        n_queries=f"{report.n_queries:,}",
        k=report.k,
        rows=body,
        hubs=_hubs(comparison, names, queries),
        **images,
    )
    path = output / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _hubs(comparison: Comparison, names: Sequence[str] | None, queries: Sequence[str] | None) -> str:
    """The largest hubs before, their N_k before and after, and the first queries that list them."""
    before, after = (comparison.hubness[when].k_occurrence for when in ("before", "after"))
    parts = []
    for item in np.argsort(-before, kind="stable")[:HUBS]:
        name = names[item] if names is not None else f"item {item}"
        asking = np.flatnonzero((comparison.ids["before"] == item).any(axis=1))[:EXAMPLES]
        shown = "".join(f"<li>{escape(queries[i] if queries is not None else f'query {i}')}</li>" for i in asking)
        parts.append(
            f"<div class=card><b>{escape(name)}</b><p>in {before[item]:,} lists before, {after[item]:,} after</p>"
            f"<ul>{shown}</ul></div>"
        )
    return "".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where an argument makes no sense."""
    parser = argparse.ArgumentParser(
        prog="simtile hubness-report", description="What a hubness correction does to a gallery: table, plots, page."
    )
    for name, text in (("gallery", "the items"), ("queries", "the queries")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"{text}: .npy, or FILE.safetensors:NAME")
    parser.add_argument("--bank", type=Path, help="other queries (default: every second of the queries)")
    parser.add_argument("--gallery-bank", type=Path, help="other items, for dual_is and dual_dis")
    parser.add_argument("--method", choices=METHODS, default="inverted_softmax")
    parser.add_argument("--truth", type=Path, help=".npy of integers: each query's right item")
    parser.add_argument("--names", type=Path, help="text file with a line for each item")
    parser.add_argument("--k", type=int, default=10, help="length of the lists (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("hubness-report"), help="folder (%(default)s)")
    options = parser.parse_args(argv)
    try:
        comparison = _compared(options)
        names = None if options.names is None else options.names.read_text(encoding="utf-8").splitlines()
        if names is not None and len(names) < len(comparison.reducer.gallery_):
            raise ValueError(f"--names: a line for each of {len(comparison.reducer.gallery_)} items, got {len(names)}")
    except (OSError, TypeError, ValueError) as error:
        print(f"simtile hubness-report: {error}", file=sys.stderr)
        return 2
    print(table(comparison))
    print(f"\n{write(comparison, options.output, names=names).resolve().as_uri()}")
    return 0


def _compared(options: argparse.Namespace) -> Comparison:
    gallery, queries = _read(options.gallery), _read(options.queries)
    truth = None if options.truth is None else _read(options.truth)
    reducer = HubnessReducer.from_paper(options.method)
    banks: dict[str, Any] = {}
    if options.method != "dual_softmax":
        if options.bank is None:
            banks["query_bank"], queries = queries[1::2], queries[::2]
            truth = None if truth is None else truth[::2]
        else:
            banks["query_bank"] = _read(options.bank)
        reducer.set_params(k=min(reducer.k, max(1, len(banks["query_bank"]))))
    if options.method in DUAL:
        if options.gallery_bank is None:
            raise ValueError(f"--gallery-bank: method {options.method} needs one")
        banks["gallery_bank"] = _read(options.gallery_bank)
    return compare(reducer.fit(gallery, **banks), queries, options.k, ground_truth=truth)


def _read(path: Path) -> NDArray[Any]:
    file, _, name = str(path).partition(".safetensors:")
    if not name:
        return np.asarray(np.load(path, allow_pickle=False))
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    arrays = load_file(f"{file}.safetensors")
    if name not in arrays:
        raise ValueError(f"{path}: one of {', '.join(arrays)}")
    return arrays[name]
