"""Tables of the documentation, made of the JSON in benches/results/.

    python docs/tables.py          write them into README.md and docs/*.md, between their markers

    <!-- table NAME -->            the block of the function NAME, here or in tables_of_search.py
    <!-- end -->
    <!-- value NAME -->1.2<!-- /value -->      a figure within a sentence: figures.py

A test compares each block with what the JSON says. To change a figure, run its command again with ``--record``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import VALUES
from recorded import RESULTS, ROOT, command, not_recorded, on, processor, processors, read, report, table
from tables_of_search import (
    exact_search,
    graph_index,
    hubness_minilm,
    hubness_times,
    hubness_words,
    scale_measured,
    scale_plan,
    search_growth,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

MARKED = re.compile(r"(<!-- table (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value (\w+) -->)(.*?)(<!-- /value -->)")


def losses() -> str:
    """InfoNCE beside plain torch."""
    results = processor("info_nce")
    machine, found = results["machine"], [row for row in results["info_nce"]["rows"] if row["dim"] == 384]
    ceilings = {
        row["dtype"]: row["rate"]
        for row in results["ceilings"]
        if (row["isa"], row["threads"]) == (machine["isa"], machine["threads"])
    }
    rows = []
    for dtype in ("float32", "bfloat16"):
        for sides in ("one", "two"):
            ours, dense = (
                next(r for r in found if (r["contender"], r["variant"], r["dtype"]) == (name, sides, dtype))
                for name in ("simtile", "torch")
            )
            rows.append([
                f"{sides}-sided, {dtype}", f"{ours['ms']:,.0f} ms", f"{dense['ms']:,.0f} ms", f"{ours['share']:.0%}",
                f"{ours['extra_mb']:,.0f} MB", f"{dense['extra_mb']:,.0f} MB",
            ])  # fmt: skip
    header = ("", "simtile", "plain torch", "share of the cores' ceiling", "extra memory", "plain torch")
    batch, threads = found[0]["batch"], machine["threads"]
    return (
        f"InfoNCE with both gradients, {batch:,} pairs of 384 dimensions, {threads} threads of {on(results)},\n"
        f"which can do {ceilings['float32']:.0f} GFLOP/s a core in float32 and {ceilings['bfloat16']:.0f} in bfloat16, "
        "against `F.cross_entropy` on stored logits;\n"
        "medians over processes (`simtile bench losses --record`):\n\n"
        f"{table(header, rows)}"
    )


CUR_SHOWN = ((50, 10), (100, 10), (100, 100), (200, 10), (200, 100), (400, 10), (400, 100))
"""Budgets and k of the page; the JSON has more."""


def cur_recall(name: str) -> str:
    """Recall of every method; ``auto`` with its gain over reranking."""
    found = {(row["target"], row["budget"], row["k"], row["method"]): row for row in read(name)["rows"]}
    methods = list(dict.fromkeys(key[3] for key in found))
    rows = []
    for target in ("raw", "centred"):
        for budget, k in CUR_SHOWN:
            cells = []
            for method in methods:
                row = found[target, budget, k, method]
                gain, error = (100 * row.get(f"gain_over_rerank{end}", 0.0) for end in ("", "_error"))
                recall = f"{100 * row['recall']:.1f}"
                cells.append(f"**{recall}** ({gain:+.1f} ± {error:.1f})" if method == "auto" else recall)
            rows.append([target, str(budget), str(k), *cells])
    return table(("scores", "calls", "k", *methods), rows, "l" + "r" * (2 + len(methods)))


def cur_maxsim() -> str:
    return cur_recall("cur-maxsim-dense")


def cur_cross_encoder() -> str:
    found = read("cur-cross-encoder-dense")
    build, test, items = found["build"], found["test"], found["items"]
    shape = f"{build} rows to build from and {test} others to search; {items:,} items"
    return f"{shape}:\n\n{cur_recall('cur-cross-encoder-dense')}"


CUR_DATA = (("late interaction", "maxsim"), ("cross-encoder", "cross-encoder"))


def cur_words() -> str:
    """Recall of raw scores with the words of the texts beside the embeddings, from whole rows."""
    rows = []
    for data, name in CUR_DATA:
        plain, words = (
            {(row["budget"], row["k"], row["method"]): row for row in read(f"cur-{name}-{kind}")["rows"]
             if row["target"] == "raw"} for kind in ("dense", "dense-words")
        )  # fmt: skip
        for budget, k in CUR_SHOWN:
            best = words[budget, k, "auto"]
            gain, error = (100 * best[f"gain_over_rerank{end}"] for end in ("", "_error"))
            others = (found[budget, k, method] for found, method in
                      ((plain, "rerank"), (words, "rerank"), (plain, "auto")))  # fmt: skip
            cells = (f"{100 * other['recall']:.1f}" for other in others)
            last = f"**{100 * best['recall']:.1f}** ({gain:+.1f} ± {error:.1f})"
            rows.append([data, str(budget), str(k), *cells, last])
    header = ("", "calls", "k", "`rerank`", "`rerank`, words", "`auto`", "`auto`, words")
    return table(header, rows, "lrrrrrr")


def cur_sparse() -> str:
    """Recall@100 of raw scores, from whole rows and from a tenth of the calls."""
    rows = []
    for data, name in CUR_DATA:
        for title, kind, method in (
            ("`auto`, whole rows, words", "dense-words", "auto"), ("`auto`, sparse, words", "sparse-words", "auto"),
            ("`auto`, whole rows", "dense", "auto"), ("`auto`, sparse", "sparse", "auto"),
            ("`axn`, sparse", "sparse", "axn"), ("`rerank`", "dense", "rerank"),
        ):  # fmt: skip
            found = read(f"cur-{name}-{kind}")
            recalls = {row["budget"]: row["recall"] for row in found["rows"]
                       if (row["target"], row["k"], row["method"]) == ("raw", 100, method)}  # fmt: skip
            cells = (f"{100 * recalls[budget]:.1f}" for budget in (100, 200, 400))
            rows.append([data, title, f"{0 if method == 'rerank' else found['scorer_calls']:,}", *cells])
    return table(("", "", "calls to build", "100", "200", "400"), rows, "llrrrr")


def training() -> str:
    """Each trainer's run with its defaults."""
    clip, simclr, sentence = (read(f"train_{task}") for task in ("clip", "simclr", "sentence"))
    chance = 10 * clip["after"]["chance, held-out characters"]
    few = "linear probe, 10 labels a digit"
    pixels = simclr["after"]["5-NN, 10 labels a digit, raw pixels"] + 0.05
    all_pixels = f"pixels' 5-NN {simclr['after']['5-NN, raw pixels']:.3f}"
    lines = (
        ("clip: recall@1 of held-out characters", clip, "recall@1, held-out characters", f"10 × chance = {chance:.3f}"),
        ("clip: recall@1 in held-out faces", clip, "recall@1, held-out faces", ""),
        ("clip: recall@1, both held out", clip, "recall@1, both", ""),
        (f"simclr: {few}", simclr, few, f"pixels' 5-NN + 5 points = {pixels:.3f}"),
        ("simclr: linear probe, all labels", simclr, "linear probe", all_pixels),
        ("simclr: 5-NN, all labels", simclr, "5-NN", all_pixels),
        ("sentence: recall@1 on unseen packages", sentence, "recall@1", f"twice {sentence['before']['recall@1']:.3f}"),
        ("sentence: recall@10", sentence, "recall@10", ""),
    )  # fmt: skip
    rows = [[title, f"{run['before'][name]:.3f}", f"{run['after'][name]:.3f}", bar] for title, run, name, bar in lines]
    seconds = [f"{run['seconds']['total']:.0f} s ({run['task']})" for run in (clip, simclr, sentence)]
    return (
        f"Whole runs took {', '.join(seconds[:2])} and {seconds[2]}, after the harvest:\n\n"
        f"{table(('', 'untrained', 'trained', 'bar'), rows, 'lrrl')}"
    )


def distributed() -> str:
    """Two processes over one."""
    rows = [
        [
            name, f"{line['loss']:.4f}", f"{line['gradient']:.4f}", f"{line['off']:.0e}",
            "–" if line["temperature"] is None else f"{line['temperature']:.4f}",
        ]
        for name, line in read("distributed_equality_2_ranks")["lines"].items()
    ]  # fmt: skip
    return table(("loss", "loss", "gradient", "off", "temperature"), rows, "lrrrr")


def saturation() -> str:
    """Errors of gradients by loss level."""
    found = read("saturation")["rows"]
    columns = ("simtile float32", "torch float32", "simtile bfloat16", "torch bfloat16")
    rows = [[f"{row['loss']:.0e}", *(f"{row['error'][name]:.1e}" for name in columns)] for row in found]
    return table(("loss", "simtile f32", "dense torch f32", "simtile bf16", "dense torch bf16"), rows)


def drop_ins() -> str:
    """Every drop-in beside its original."""
    results = processor("drop_ins")
    if results is None:
        return not_recorded("python benches/bench_drop_ins.py --record")
    rows = [
        [
            row["loss"], f"{row['batch']:,}", f"{row['ms']['simtile']:,.1f}", f"{row['ms']['original']:,.1f}",
            f"{row['extra_mb']['simtile']:,.0f}", f"{row['extra_mb']['original']:,.0f}",
        ]
        for row in results["drop_ins"]["rows"]
        if not row["wrong"]
    ]  # fmt: skip
    header = ("loss", "batch", "ms", "original's", "MB beside inputs", "original's")
    return (
        f"float32, 384 dimensions, {results['machine']['threads']} threads of {on(results)} "
        f"(`{command(results, 'drop_ins')}`):\n\n{table(header, rows, 'lrrrrr')}"
    )


def papers() -> str:
    """The registry of papers, and what their recipes measured."""
    sys.path.insert(0, str(ROOT / "python"))
    from simtile.recipes.registry import papers as registry

    measured = read("recipes") if (RESULTS / "recipes.json").exists() else {}
    rows, remarks = [], []
    for paper in registry().values():
        title = f"[{paper.title}](https://arxiv.org/abs/{paper.paper[6:]})" if paper.paper else paper.title
        offers = f"[{paper.offers}]({paper.docs.removeprefix('docs/')})" if paper.docs else paper.offers
        claim, found = paper.recipe, measured.get(paper.id)
        shows = f"{claim.shows}, beside {claim.baseline}" if claim else "-"
        figures = "-"
        if claim and found:
            sign = {"higher": "≥ +", "lower": "≤ −", "equal": "± "}[claim.better]
            figures = f"{found['measured']:.4g} beside {found['baseline']:.4g} (bar {sign}{found['margin']:g})"
            figures += "" if found["holds"] else ", DOES NOT HOLD"
        rows.append([str(paper.number), f"`{paper.id}`", title, paper.tier, offers, shows, figures, paper.checked])
        remarks += [f"* `{paper.id}`: {paper.remarks}"] if paper.remarks else []
    header = ("", "recipe", "paper", "tier", "what simtile has", "the recipe shows", "measured", "checked in")
    return f"{table(header, rows, 'r')}\n\n## Remarks\n\n" + "\n".join(remarks)


def layers() -> str:
    """The layers that import-linter holds the package to, and what each module says of itself."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    rows = []
    for at, layer in enumerate(settings["contracts"][0]["layers"], 1):
        modules = re.split(r" [:|] ", layer)
        public = [name for name in modules if not name.startswith("_") or name == "__main__"]
        shown = [f"`{name}`: {summary(name)}" for name in public]
        inner = ", ".join(f"`{name}`" for name in modules if name not in public)
        rows.append([str(at), "<br>".join([*shown, *([inner] if inner else [])])])
    return table(("", "modules of a layer; each may import the ones below"), rows, "r")


def summary(name: str) -> str:
    """The first sentence of a module's docstring."""
    path = ROOT / "python" / "simtile" / name
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<=[a-z)])[.;](?= |$)", first.replace("``", "`"))[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", sentence)


PICTURES = ("loss_memory", "loss_time")
"""Figures of the report that are kept in docs/pictures."""


def swept() -> Any:
    """Results of the first processor on which losses of all batch sizes were measured."""
    return next(results for results in processors() if results.get("info_nce", {}).get("sizes"))


def pictures() -> str:
    """Memory and time of a loss, side by side."""
    results = swept()
    drawn = report.figures(results)
    shown = "\n".join(f'<img src="docs/pictures/{name}.svg" alt="{drawn[name][0]}" width="49%">' for name in PICTURES)
    threads = results["machine"]["threads"]
    return (
        f"{shown}\n\n"
        f"Two-sided InfoNCE with both gradients, float32, 384 dimensions, {threads} threads of {on(results)}\n"
        f"(`{command(results, 'info_nce')}`)."
    )


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        losses, exact_search, hubness_minilm, hubness_words, cur_maxsim, cur_cross_encoder,
        cur_words, cur_sparse, training, distributed, saturation, drop_ins, graph_index, search_growth, hubness_times,
        scale_measured, scale_plan, layers, papers, pictures,
    )
}  # fmt: skip


def renewed(text: str) -> str:
    """A page with every marked block and figure made again.

    Raises
    ------
    KeyError      for a marker of no table or figure
    """
    text = MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[4]}", text)
    return VALUE.sub(lambda found: f"{found[1]}{VALUES[found[2]]()}{found[4]}", text)


def pages() -> list[Path]:
    """Every page that may have markers."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def drawings() -> dict[Path, str]:
    """The files of docs/pictures, and the SVG that belongs into each."""
    drawn = report.figures(swept())
    return {ROOT / "docs" / "pictures" / f"{name}.svg": drawn[name][1] for name in PICTURES}


def main() -> None:
    for path, svg in drawings().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(svg, encoding="utf-8")
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
