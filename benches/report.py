"""One page of a bench run: figures, tables, the machine, and what was not run.

python benches/report.py benches/results/<processor>.json [folder]      again, from kept results
"""

from __future__ import annotations

import base64
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import bench_search
import plots
from machine import BENCHES, OUT, Record

Table = tuple[str, Sequence[str], list[Sequence[str]]]
"""Title, header, rows."""


def figures(results: Record) -> dict[str, tuple[str, str]]:
    """File stem -> (caption, SVG) of every figure whose records are there."""
    drawn: dict[str, tuple[str, str | None]] = {
        "loss_time": (
            "Loss and both gradients: time by batch size (two-sided, float32)",
            plots.by_size(results, "ms", "ms a step"),
        ),
        "loss_memory": (
            "Memory beside the inputs by batch size: the matrix is never stored",
            plots.by_size(results, "extra_mb", "extra MB"),
        ),
        "ceiling": ("How much of the core is used", plots.ceiling(results)),
        "pareto": ("Approximate search: rate by recall, one thread", plots.pareto(results)),
        "hubness": ("Hubs before and after every correction", plots.hubs(results)),
    }
    for name, record in results.get("cur_recall", {}).items():
        for k in (10, 100):
            caption = f"Recall@{k} by calls of the scorer: {name.replace('-', ' ')} index"
            drawn[f"cur-{name}-{k}"] = (caption, plots.calls(record["rows"], k))
    return {name: (caption, svg) for name, (caption, svg) in drawn.items() if svg is not None}


def tables(results: Record) -> Iterable[Table]:
    """What was measured, in the words of the terminal's tables."""
    races = [
        (title, row)
        for name, title in (("info_nce", "InfoNCE"), ("pair_softplus", "sigmoid"), ("pair_lse", "log-sum-exp"))
        for row in results.get(name, {}).get("rows", [])
    ]
    if races:
        header = ("loss", "dtype", "B × D", "contender", "ms", "[min max]", "extra MB", "of ceiling", "time / ours")
        yield "Losses", header, [loss_row(title, row) for title, row in races]
    drop_ins = results.get("drop_ins", {}).get("rows", [])
    if drop_ins:
        header = ("drop-in", "B", "simtile ms", "original ms", "simtile MB", "original MB", "faster")
        yield "Drop-ins beside their originals", header, [drop_in_row(row) for row in drop_ins]
    if "search_exact" in results:
        yield from exact_table(results["search_exact"]["processes"])
    if "search" in results:
        yield graph_table(results["search"]["processes"])
    if "hubness" in results:
        yield hubness_times(results["hubness"]["processes"])


def loss_row(title: str, row: Record) -> Sequence[str]:
    name = title if title == "sigmoid" else f"{title}, {row['variant']}"
    start = (name, row["dtype"], f"{row['batch']:,} × {row['dim']}", row["contender"])
    if row["wrong"] is not None:
        return (*start, f"wrong, not timed: {row['wrong']}")
    share, ratio = row.get("share"), row.get("ratio")
    return (
        *start, f"{row['ms']:,.1f}", f"[{row['ms_low']:,.1f} {row['ms_high']:,.1f}]", f"{row['extra_mb']:,.0f}",
        "" if share is None else f"{share:.0%}", "" if ratio is None else f"{ratio:.2f}",
    )  # fmt: skip


def drop_in_row(row: Record) -> Sequence[str]:
    if row["wrong"]:
        return (row["loss"], f"{row['batch']:,}", f"wrong, not timed: {row['wrong']}")
    ms, mb = row["ms"], row["extra_mb"]
    return (
        row["loss"], f"{row['batch']:,}", f"{ms['simtile']:.2f}", f"{ms['original']:.2f}", f"{mb['simtile']:.1f}",
        f"{mb['original']:.1f}", f"{row['ratio']:.2f}",
    )  # fmt: skip


def exact_table(processes: Sequence[Record]) -> Iterable[Table]:
    n, d, _ = processes[0]["shape"]
    rows = []
    for name in dict.fromkeys(one["name"] for one in processes):
        ones = [one for one in processes if one["name"] == name]
        rates = [statistics.median(one["qps"]) for one in ones]
        cpu = statistics.median(statistics.median(one["cpu_qps"]) for one in ones)
        spread = f"[{min(rates):,.0f} {max(rates):,.0f}]"
        rows.append((name, f"{statistics.median(rates):,.0f}", spread, f"{cpu:,.0f}", f"{ones[0]['recall']:.3f}"))
    header = ("contender", "queries/s", "[min max]", "by CPU time", "recall@10")
    yield f"Exact search of {n:,} × {d}, one thread", header, rows


def graph_table(processes: Sequence[Record]) -> Table:
    n, d, _ = processes[0]["shape"]
    rows = []
    for name in dict.fromkeys(one["name"] for one in processes):
        ones = [one for one in processes if one["name"] == name]
        cells = []
        for recall in bench_search.RECALLS:
            rates = [bench_search.rate_at(one["curve"], recall, "cpu_qps") for one in ones]
            known = [rate for rate in rates if rate is not None]
            cells.append(f"{statistics.median(known):,.0f}" if len(known) == len(rates) else "")
        built = statistics.median(one["build_cpu_s"] for one in ones)
        rows.append((name, ones[0]["version"], *cells, f"{built:.1f}", f"{ones[0]['extra_bytes'] / (4 * n * d):.2f}"))
    at = tuple(f"at {recall}" for recall in bench_search.RECALLS)
    header = ("index", "version", *at, "build CPU s", "bytes / vectors")
    return f"Approximate search of {n:,} × {d}: queries a CPU second at a recall@10", header, rows


def hubness_times(processes: Sequence[Record]) -> Table:
    rows: list[Sequence[str]] = []
    for name in dict.fromkeys(one["name"] for one in processes):
        ones = [one for one in processes if one["name"] == name]
        if any("missing" in one for one in ones):
            rows.append((name, f"not run: {next(one['missing'] for one in ones if 'missing' in one)}"))
            continue
        cpu = [statistics.median(one["cpu"]) for one in ones]
        memory, right = max(one["extra_mb"] for one in ones), min(one["right"] for one in ones)
        spread = f"[{min(cpu):.2f} {max(cpu):.2f}]"
        rows.append((name, f"{statistics.median(cpu):.2f}", spread, f"{memory:.0f}", f"{right:.4f}"))
    return "Hubness: fit and search", ("contender", "CPU s", "[min max]", "extra MB", "ids as the formula's"), rows


def html_table(table: Table) -> str:
    """A row that is shorter than the header ends with a remark, which takes the rest of the line."""
    title, header, rows = table
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = []
    for row in rows:
        *cells, last = (escape(cell) for cell in row)
        rest = len(header) - len(row)
        width = f" colspan={rest + 1} class=remark" if rest else ""
        plain = "".join(f"<td>{cell}</td>" for cell in cells)
        body.append(f"<tr>{plain}<td{width}>{last}</td></tr>")
    return (
        f"<h2>{escape(title)}</h2><div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def facts(results: Record) -> list[tuple[str, str]]:
    """What the figures were measured on."""
    machine = results["machine"]
    shown = [
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}"),
        ("card", machine.get("card") or "none"),
        ("threads", str(machine["threads"])),
        ("BLAS and thread pools", "; ".join(machine.get("blas") or ["not recorded"])),
        ("torch's CPU kernels", machine.get("torch_cpu", "not recorded")),
        ("versions", ", ".join(f"{name} {machine[name]}" for name in ("python", "numpy", "torch", "simtile"))),
        ("peers", ", ".join(f"{name} {version}" for name, version in machine.get("peers", {}).items()) or "none"),
        ("commit", machine["commit"]),
        ("date", machine["date"]),
        ("load before", f"{machine['load_before'][0]:.1f}"),
        ("command", machine.get("command", "python benches/run.py --record")),
    ]
    seconds = results.get("seconds", {})
    if seconds:
        shown.append(("seconds", ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())))
    return shown


def write_report(results: Record, folder: Path) -> Path:
    """Write ``index.html`` (one file) and each figure as an SVG into ``folder``; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    cards = []
    for name, (caption, svg) in figures(results).items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        data = base64.b64encode(svg.encode()).decode()
        cards.append(
            f"<figure class=card><figcaption>{escape(caption)}</figcaption>"
            f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}"></figure>'
        )
    absent = [
        f"<li>{escape(e['suite'])}: {escape(e['what'])}: {escape(e['why'])}</li>" for e in results.get("not_run", [])
    ]
    kind = "a quick run of small sizes" if results.get("quick") else "a full run"
    template = Template((BENCHES / "report.html").read_text(encoding="utf-8"))
    path = folder / "index.html"
    page = template.substitute(
        kind=kind,
        machine=escape(results["machine"]["cpu"]),
        figures="".join(cards),
        tables="".join(map(html_table, tables(results))),
        absent=f"<h2>Not run</h2><ul>{''.join(absent)}</ul>" if absent else "",
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts(results)),
    )
    path.write_text(page, encoding="utf-8")
    return path


if __name__ == "__main__":
    print(
        write_report(
            json.loads(Path(sys.argv[1]).read_text()), Path(*sys.argv[2:3]) if sys.argv[2:] else OUT / "report"
        )
    )
