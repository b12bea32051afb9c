"""The demo's report: one self-contained HTML page, and the same figures as JSON."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simtile.demo.corpus import Corpus
from simtile.demo.evaluate import Retrieval
from simtile.demo.loss_cost import LossComparison
from simtile.demo.train import Step

BEFORE, AFTER, INK = "#9aa5b1", "#0b7285", "#1f2933"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#cbd2d9",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#eef1f4",
    "svg.fonttype": "none",
    "text.color": INK,
}


@dataclass(frozen=True)
class Example:
    """A test query and the first line of its top hit, before and after training."""

    row: int
    query: str
    package: str
    before: str
    after: str


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. Heat maps are cosines (E, E) of the example queries and their codes."""

    corpus: Corpus
    history: list[Step]
    before: Retrieval
    after: Retrieval
    cost: LossComparison
    examples: list[Example]
    heat_before: NDArray[np.float32]
    heat_after: NDArray[np.float32]
    seconds: dict[str, float]
    options: dict[str, int]
    machine: dict[str, str]

    def figures(self) -> dict[str, object]:
        """All numbers, for JSON. No harvested text is among them."""
        corpus = self.corpus
        return {
            "corpus": {
                "digest": corpus.digest,
                "train_pairs": len(corpus.train),
                "test_pairs": len(corpus.test),
                "packages": {side: len(names) for side, names in corpus.pairs_per_package().items()},
                "versions": corpus.versions,
            },
            "before": self.before.figures(),
            "after": self.after.figures(),
            "loss": [step.loss for step in self.history],
            "temperature": [step.temperature for step in self.history],
            "loss_cost": {
                name: {"median_ms": cost.median_ms, "times_ms": list(cost.times_ms), "extra_mb": cost.extra_mb}
                for name, cost in self.cost.costs.items()
            },
            "loss_difference": self.cost.loss_difference,
            "gradient_difference": self.cost.gradient_difference,
            "seconds": self.seconds,
            "options": self.options,
            "machine": self.machine,
        }


def write(report: Report, folder: Path) -> Path:
    """Write ``index.html`` and ``demo.json`` into a folder, which is made if needed; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.json").write_text(json.dumps(report.figures(), indent=2) + "\n", encoding="utf-8")
    page = folder / "index.html"
    page.write_text(_page(report), encoding="utf-8")
    return page


def rows_of_table(report: Report) -> list[tuple[str, str, str]]:
    """(measure, before training, after training), and (measure, plain torch, simtile) for the loss."""
    before, after = report.before, report.after
    torch_cost, our_cost = report.cost.costs["torch"], report.cost.costs["simtile"]

    def memory(extra_mb: float | None) -> str:
        return "not known here" if extra_mb is None else f"{extra_mb:,.0f} MB"

    return [
        ("recall@1 on unseen packages", f"{before.recall_at_1:.3f}", f"{after.recall_at_1:.3f}"),
        ("recall@10", f"{before.recall_at_10:.3f}", f"{after.recall_at_10:.3f}"),
        ("MRR@10", f"{before.mrr_at_10:.3f}", f"{after.mrr_at_10:.3f}"),
        ("hubness: skewness of N₁₀", f"{before.hubness_skew:.2f}", f"{after.hubness_skew:.2f}"),
        ("largest hub (top-10 lists)", f"{before.largest_hub:,}", f"{after.largest_hub:,}"),
        ("codes in no top-10 list", f"{before.anti_hub_share:.0%}", f"{after.anti_hub_share:.0%}"),
        ("", "plain torch", "simtile"),
        ("loss + gradient, one batch", f"{torch_cost.median_ms:,.0f} ms", f"{our_cost.median_ms:,.0f} ms"),
        ("extra peak memory", memory(torch_cost.extra_mb), memory(our_cost.extra_mb)),
    ]


def summary(report: Report) -> str:
    """The table as plain text."""
    lines = [f"{'':32s}{'before':>16s}{'after':>16s}"]
    lines += [f"{name:32s}{left:>16s}{right:>16s}" for name, left, right in rows_of_table(report)]
    difference = report.cost
    lines.append(
        f"same loss to {difference.loss_difference:.0e} and gradients to {difference.gradient_difference:.0e}, "
        f"batch {difference.batch:,} x {difference.dim}"
    )
    return "\n".join(lines)


def _loss_curve(report: Report) -> Figure:
    figure = Figure(figsize=(6, 3.4))
    axes = figure.subplots()
    axes.plot(np.arange(1, len(report.history) + 1), [step.loss for step in report.history], color=AFTER, linewidth=2)
    axes.set(xlabel="step", ylabel=f"InfoNCE, batch {report.options['batch']:,}", ylim=(0, None))
    return figure


def _recall(report: Report) -> Figure:
    figure = Figure(figsize=(6, 3.4))
    axes = figure.subplots()
    names = ["recall@1", "recall@10", "MRR@10"]
    place = np.arange(len(names))
    for shift, label, color, result in ((-0.2, "before", BEFORE, report.before), (0.2, "after", AFTER, report.after)):
        values = [result.recall_at_1, result.recall_at_10, result.mrr_at_10]
        bars = axes.bar(place + shift, values, 0.38, label=label, color=color)
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=9)
    axes.set_xticks(place, names)
    axes.set_ylim(0, 1.15 * max(report.after.recall_at_10, report.before.recall_at_10, 0.1))
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False)
    return figure


def _k_occurrence(report: Report) -> Figure:
    figure = Figure(figsize=(6, 3.4))
    axes = figure.subplots()
    largest = max(report.before.largest_hub, report.after.largest_hub, 2)
    edges = np.unique(np.round(np.geomspace(1, largest + 1, 24)))
    for label, color, marker, result in (("before", BEFORE, "o", report.before), ("after", AFTER, "s", report.after)):
        counts, _ = np.histogram(result.k_occurrence, bins=edges)
        density = counts / np.diff(edges)
        shown = counts > 0
        axes.plot(edges[:-1][shown], density[shown], marker=marker, color=color, label=label, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="top-10 lists that a code is in, N₁₀", ylabel="codes per value of N₁₀")
    axes.legend(frameon=False)
    return figure


def _heat_maps(report: Report) -> Figure:
    figure = Figure(figsize=(9, 3.9))
    maps = (("before", report.heat_before), ("after", report.heat_after))
    low, high = min(heat.min() for _, heat in maps), max(heat.max() for _, heat in maps)
    panels = figure.subplots(1, 2)
    for axes, (label, heat) in zip(panels, maps, strict=True):
        image = axes.imshow(heat, vmin=low, vmax=high, cmap="GnBu")
        axes.set(title=label, xlabel="code of example", ylabel="query of example")
        axes.set_xticks(np.arange(len(heat)), np.arange(1, len(heat) + 1))
        axes.set_yticks(np.arange(len(heat)), np.arange(1, len(heat) + 1))
        axes.grid(visible=False)
    figure.colorbar(image, ax=panels, label="cosine", shrink=0.85)
    return figure


def _embedded(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'


def _page(report: Report) -> str:
    with mpl.rc_context(STYLE):
        pictures = {
            "loss": _embedded(_loss_curve(report), "loss by step"),
            "recall": _embedded(_recall(report), "recall before and after training"),
            "hubs": _embedded(_k_occurrence(report), "histogram of k-occurrence before and after training"),
            "heat": _embedded(_heat_maps(report), "cosines of example queries and codes"),
        }
    corpus, cost = report.corpus, report.cost
    torch_cost, our_cost = cost.costs["torch"], cost.costs["simtile"]
    memory = (
        ""
        if torch_cost.extra_mb is None or not our_cost.extra_mb
        else (f", {torch_cost.extra_mb / our_cost.extra_mb:.1f}× less memory")
    )
    packages = corpus.pairs_per_package()

    def names(side: str) -> str:
        return ", ".join(f"{escape(name)} {count:,}" for name, count in list(packages[side].items())[:12])

    table = "".join(
        f"<tr><th>{escape(name)}</th><td>{left}</td><td>{right}</td></tr>"
        if name
        else f'<tr class="head"><th></th><td>{left}</td><td>{right}</td></tr>'
        for name, left, right in rows_of_table(report)
    )
    examples = "".join(
        f"<article><h3>{index}. {escape(example.query)}</h3><p class=note>{escape(example.package)}</p>"
        f"<p><b>before</b><code>{escape(example.before)}</code></p>"
        f"<p><b>after</b><code>{escape(example.after)}</code></p></article>"
        for index, example in enumerate(report.examples, 1)
    )
    facts = {**report.machine, **{f"{step} (s)": f"{value:.1f}" for step, value in report.seconds.items()}}
    return Template(_HTML).substitute(
        pictures,
        recall_before=f"{report.before.recall_at_1:.3f}",
        recall_after=f"{report.after.recall_at_1:.3f}",
        n_train=f"{len(corpus.train):,}",
        n_test=f"{len(corpus.test):,}",
        n_train_packages=len(packages["train"]),
        n_test_packages=len(packages["test"]),
        train_names=names("train"),
        test_names=names("test"),
        digest=corpus.digest[:16],
        batch=f"{cost.batch:,}",
        ratio=f"{torch_cost.median_ms / our_cost.median_ms:.1f}",
        memory=memory,
        loss_difference=f"{cost.loss_difference:.0e}",
        gradient_difference=f"{cost.gradient_difference:.0e}",
        table=table,
        examples=examples,
        facts="".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()),
        versions=", ".join(f"{escape(name)} {escape(version)}" for name, version in corpus.versions.items()),
    )


_HTML = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>simtile demo</title>
<style>
:root { color: #1f2933; background: #fff; font: 17px/1.55 system-ui, sans-serif }
body { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem }
h3 { font-size: 1rem; margin: 0 }
.lead { font-size: 1.15rem; max-width: 44rem; margin: 0 0 2rem }
.lead b { color: #0b7285 }
.note { color: #616e7c; font-size: .9rem; margin: .25rem 0 }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem 2.5rem }
figure { margin: 0 }
img { width: 100%; height: auto }
table { border-collapse: collapse; width: 100% }
th { font-weight: 400; text-align: left }
td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: 1rem }
td:last-child { font-weight: 600 }
th, td { border-bottom: 1px solid #e4e7eb; padding-block: .4rem }
.head td, thead td { color: #616e7c; font-weight: 400; padding-top: 1rem }
.head td:last-child, thead td:last-child { color: #0b7285 }
article { border-top: 1px solid #e4e7eb; padding: .9rem 0 }
article p { margin: .35rem 0 0 }
article b { color: #616e7c; font-weight: 400; display: inline-block; width: 4rem }
code { font-size: .85rem; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; font-size: .9rem }
dd { margin: 0; overflow-wrap: anywhere }
</style>
<h1>Code search, learned on this machine</h1>
<p class="lead">A static-embedding encoder saw $n_train docstring–code pairs. On $n_test pairs of packages that it
never saw, it finds the right code first in <b>$recall_after</b> of the cases, before training in $recall_before.</p>
<table><thead><tr><th></th><td>before</td><td>after</td></tr></thead>$table</table>
<p class="note">Loss and gradient on one training batch of $batch pairs, two-sided InfoNCE: $ratio× as fast as plain
torch$memory.
The loss differs by $loss_difference, the gradients by $gradient_difference relative to the largest.</p>
<div class="two">
<figure><h2>Retrieval on unseen packages</h2>$recall</figure>
<figure><h2>Loss</h2>$loss</figure>
</div>
<h2>Hubs</h2>
<p>A hub is a code that is among the ten nearest of very many queries, whatever they ask. Training with thousands of
in-batch negatives takes most of that away.</p>
<figure>$hubs</figure>
<h2>Similarities</h2>
<p>Cosines of the example queries below with each other's codes. The diagonal is what they should find.</p>
<figure>$heat</figure>
<h2>Examples</h2>
<p class="note">Queries of unseen packages that found their own code only after training.</p>
$examples
<h2>Corpus</h2>
<p>Harvested from the Python files installed here, split by package: $n_train_packages packages and modules to train,
$n_test_packages to test. Corpus $digest.</p>
<p class="note"><b>Train</b> $train_names, …</p>
<p class="note"><b>Test</b> $test_names, …</p>
<h2>This run</h2>
<dl>$facts</dl>
<p class="note">$versions</p>
</html>
"""
