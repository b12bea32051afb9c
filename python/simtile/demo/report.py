"""Writes ``index.html``, one file without any reference to another, and ``demo.json``."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from simtile.demo import plots
from simtile.demo.harvest import Pair
from simtile.demo.job import Results, group_stdlib
from simtile.demo.summary import agreement, as_json, loss_rows, machine, metric_rows

HEAT_MAP_SIZE = 14
EXAMPLE_CODE_LINES = 9
# How an example went before and after, in the order in which they are shown, and how many of each.
EXAMPLE_KINDS = (
    ((False, True), 3, "learned"),
    ((True, True), 1, "right from the start"),
    ((False, False), 1, "still wrong"),
    ((True, False), 1, "lost"),
)


def write_report(results: Results, output: Path) -> Path:
    """Write both files into the folder `output`, made if need be; returns the path of the HTML file."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "demo.json").write_text(json.dumps(as_json(results), indent=1) + "\n", encoding="utf-8")
    path = output / "index.html"
    path.write_text(report_html(results), encoding="utf-8")
    return path


def report_html(results: Results) -> str:
    """The whole page."""
    corpus, losses = results.corpus, results.losses
    train, test = (group_stdlib(counts) for counts in corpus.pairs_per_package().values())
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        headline=_headline(results),
        lead=_lead(results),
        tiles=_tiles(results),
        metrics=_table(("", "before", "after", "better by"), metric_rows(results)),
        loss_cost=_table(("", "plain torch", "simtile", "better by"), loss_rows(results)),
        agreement=escape(agreement(results)).replace("e-", "e\N{NON-BREAKING HYPHEN}"),
        loss_note=f"{losses.batch:,} pairs × {losses.dim}, temperature {losses.temperature:.3f}, both directions",
        loss_cost_plot=_figure(plots.loss_cost_bars(_loss_bars(results)), "Time and memory of both losses"),
        recall_plot=_figure(plots.recall_bars(results.before, results.after), "Recall before and after"),
        loss_plot=_figure(plots.loss_curve([step.loss for step in results.history], results.batch), "Loss by step"),
        hubness_plot=_figure(plots.k_occurrence_histogram(results.before, results.after), "k-occurrence histogram"),
        heat_plot=_figure(plots.heat_maps(_similarities(results)), "Cosines before and after"),
        train_bars=_figure(plots.package_bars(train), "Training pairs per package"),
        test_bars=_figure(plots.package_bars(test), "Test pairs per package"),
        train_pairs=f"{len(corpus.train):,}",
        test_pairs=f"{len(corpus.test):,}",
        examples="\n".join(_example(results, *example) for example in _choose_examples(results)),
        corpus_facts=_facts(_corpus_facts(results)),
        run_facts=_facts(_run_facts(results)),
        versions=escape(", ".join(f"{name} {version}" for name, version in corpus.versions.items())),
    )


def _headline(results: Results) -> str:
    return f"recall@1 {results.before.recall_at_1:.3f} → {results.after.recall_at_1:.3f}"


def _lead(results: Results) -> str:
    return (
        f"A code search model, trained in {results.seconds['train']:.0f} seconds on the docstrings of this machine's "
        f"own Python packages, and tested on {len(results.before.ids):,} functions of packages that it never saw."
    )


def _tiles(results: Results) -> str:
    tiles = [
        (f"{results.after.recall_at_1 / results.before.recall_at_1:.1f}×", "recall@1 on unseen packages")
        if results.before.recall_at_1 > 0
        else (f"{results.after.recall_at_1:.3f}", "recall@1 on unseen packages"),
        (f"{results.before.largest_hub:,} → {results.after.largest_hub:,}", "size of the largest hub"),
    ]
    for label, _, _, ratio in loss_rows(results):
        if ratio:
            tiles.append((ratio, "faster loss" if label.startswith("time") else "less memory for the loss"))
    return "".join(
        f"<div class=tile><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in tiles
    )


def _loss_bars(results: Results) -> list[tuple[str, float, float, str]]:
    plain, ours = results.losses.costs["torch"], results.losses.costs["simtile"]
    bars = [("time, forward + backward", plain.median_ms, ours.median_ms, "ms")]
    if plain.extra_mb is not None and ours.extra_mb is not None:
        bars.append(("extra peak memory", plain.extra_mb, ours.extra_mb, "MB"))
    return bars


def _similarities(results: Results) -> dict[str, NDArray[np.float32]]:
    n = len(results.corpus.test)
    rows = np.sort(np.random.default_rng(results.options.seed).permutation(n)[:HEAT_MAP_SIZE])
    similarities = {}
    for when, (queries, codes) in results.vectors.items():
        query, code = (_normalize(vectors[rows]) for vectors in (queries, codes))
        similarities[when] = query @ code.T
    return similarities


def _normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def _choose_examples(results: Results) -> list[tuple[int, str]]:
    """Row and kind of a few test queries: drawn at random within each kind, wrong answers included."""
    own = np.arange(len(results.corpus.test))
    before, after = (retrieval.ids[:, 0] == own for retrieval in (results.before, results.after))
    order = np.random.default_rng(results.options.seed).permutation(len(own))
    chosen = []
    for (was_right, is_right), count, kind in EXAMPLE_KINDS:
        rows = order[(before[order] == was_right) & (after[order] == is_right)]
        chosen += [(int(row), kind) for row in rows[:count]]
    return chosen


def _example(results: Results, row: int, kind: str) -> str:
    test = results.corpus.test
    hits = "".join(
        _hit(when, test[retrieval.ids[row, 0]], is_right=bool(retrieval.ids[row, 0] == row))
        for when, retrieval in (("before", results.before), ("after", results.after))
    )
    return (
        f"<article class=example><p class=query><span class=kind>{escape(kind)}</span>{escape(test[row].query)}"
        f"<span class=package>{escape(test[row].package)}</span></p><div class=hits>{hits}</div></article>"
    )


def _hit(when: str, pair: Pair, *, is_right: bool) -> str:
    lines = pair.code.split("\n")
    code = "\n".join(lines[:EXAMPLE_CODE_LINES]) + ("\n…" if len(lines) > EXAMPLE_CODE_LINES else "")
    verdict = "right" if is_right else "wrong"
    return (
        f"<div class='hit {verdict}'><p><b>{when}</b> {'✓' if is_right else '✗'} {verdict}"
        f"<span class=package>{escape(pair.package)}</span></p><pre tabindex=0><code>{escape(code)}</code></pre></div>"
    )


def _corpus_facts(results: Results) -> list[tuple[str, str]]:
    corpus = results.corpus
    return [
        ("files read", f"{corpus.n_files:,}" + (" (time limit reached)" if corpus.stopped_early else "")),
        ("files that don't parse", f"{corpus.n_unparsed:,}"),
        ("duplicate queries or codes dropped", f"{corpus.n_duplicates:,}"),
        ("harvest", f"{corpus.seconds:.0f} s" + (" (this time from the cache)" if corpus.from_cache else "")),
        ("content hash", corpus.digest[:16]),
        *((name, str(value)) for name, value in machine().items()),
    ]


def _run_facts(results: Results) -> list[tuple[str, str]]:
    stages = [(name, f"{seconds:.1f} s") for name, seconds in results.seconds.items()]
    training = f"{len(results.history)} steps of {results.batch:,}, seed {results.options.seed}"
    return [("training", training), *stages]


def _facts(facts: list[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)


def _table(header: tuple[str, ...], rows: list[tuple[str, str, str, str]]) -> str:
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(svg: str, alternative: str) -> str:
    # An image rather than inline SVG: matplotlib's ids would clash between two drawings on one page.
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{data}">'
