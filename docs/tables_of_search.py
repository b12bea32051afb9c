"""Tables of search, of hubness, and of jobs of many machines."""

from __future__ import annotations

import statistics

from recorded import RESULTS, command, not_recorded, on, processor, read, report, table


def exact_search() -> str:
    """The exact top 10 by CPU time and by the clock."""
    results = processor("search_exact")
    processes = results["search_exact"]["processes"]
    titles = {
        "simtile-pca": "simtile, 8-bit first pass along principal directions",
        "simtile-i8": "simtile, 8-bit first pass",
        "simtile-f32": "simtile, float32",
        "numpy": "NumPy",
        "faiss": "faiss `IndexFlatIP`",
    }
    rows = []
    for name, title in titles.items():
        ones = [one for one in processes if one["name"] == name]
        if ones:
            rate = statistics.median(statistics.median(one["qps"]) for one in ones)
            rows.append([title, f"{rate:,.0f}", f"{min(one['recall'] for one in ones):.3f}"])
    n, d, _ = processes[0]["shape"]
    return (
        f"Exact top 10 among {n:,} real vectors of {d} dimensions, one thread of {on(results)}\n"
        "(`simtile bench search --peers --record`):\n\n"
        f"{table(('', 'queries a second', 'recall@10'), rows, 'lrr')}"
    )


def graph_index() -> str:
    """Queries a CPU second at equal recall."""
    results = processor("search")
    if results is None:
        return not_recorded("simtile bench search --peers --record")
    title, header, rows = report.graph_table(results["search"]["processes"])
    return (
        f"{title}, top 10, one thread of {on(results)}\n(`{command(results, 'search')}`):\n\n"
        f"{table(header, rows, 'll' + 'r' * (len(header) - 2))}"
    )


def search_growth() -> str:
    """Exact search and the graph by size."""
    if not (RESULTS / "search_growth.json").exists():
        return not_recorded("python benches/bench_search_growth.py --record")
    rows = [
        [f"{row['n']:,}", f"{row['exact_qps']:,.0f}", f"{row['graph_qps']:,.0f}", f"{row['recall']:.3f}",
         f"{row['build_s']:.0f} s", f"{row['pays_from']:,.0f}", f"{row['estimate']:,.0f}"]
        for row in read("search_growth")["rows"]
    ]  # fmt: skip
    header = (
        "vectors",
        "exact queries/s",
        "graph's",
        "at recall",
        "graph built in",
        "pays from queries",
        "`explain` says",
    )
    return table(header, rows, "r" * len(header))


def scale_measured() -> str:
    """Blocks in this process, on one worker and on two."""
    found = read("scale")
    names = {
        "search": "exact search in a mapped file", "stats": "statistics of a bank",
        "travel_8_blocks_of_64_mib": "8 blocks of 64 MiB that only travel", "start_and_stop": "start and stop",
    }  # fmt: skip
    rows = []
    for key, name in names.items():
        seconds = found["seconds"][key]
        gain = f"{seconds['one_worker'] / seconds['two_workers']:.2f}x" if key in found["flop"] else "-"
        rows.append([name, *(f"{seconds[w]:.2f} s" for w in ("in_process", "one_worker", "two_workers")), gain])
    return table(("", "this process, one thread", "one worker", "two workers", "two over one"), rows, "lrrrr")


def scale_plan() -> str:
    """What jobs of many machines take, at the measured rate of a core."""
    processes = [one for one in processor("search_exact")["search_exact"]["processes"] if one["name"] == "simtile-i8"]
    pairs = statistics.median(rate for one in processes for rate in one["qps"]) * 46_701
    rows = []
    for queries, vectors in ((1e6, 1e8), (1e7, 1e9), (1e8, 1e9)):
        hours = queries * vectors / pairs / 3600
        sent = 12 * queries * 10 * vectors / 1e7
        rows.append([
            f"{queries:,.0f}", f"{vectors:,.0f}", f"{2 * queries * vectors * 384:.1e}", f"{hours:,.0f}",
            f"{hours / 1000:,.1f} h", f"{4 * vectors * 384 / 1e12:.2f} TB", f"{sent / 1e12:.3f} TB",
            f"{0.04 * hours:,.0f}",
        ])  # fmt: skip
    header = (
        "queries",
        "vectors",
        "operations",
        "core hours",
        "on 1,000 cores",
        "read",
        "merged",
        "at 0.04 a core hour",
    )
    return table(header, rows, "r" * len(header))


def hubness_quality(encoder: str) -> str:
    """Quality before and after every correction."""
    rows = [
        [
            row["method"].replace("_", " "),
            ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row["parameters"].items())
            + " *" * row["tuned"],
            *(f"{100 * row[name]:.1f}" for name in ("recall_at_1", "recall_at_10", "mrr_at_10")),
            f"{row['skewness']:.1f}", f"{row['robin_hood']:.2f}", f"{row['largest_hub']:,}",
            f"{100 * row['anti_hubs']:.0f} %",
        ]
        for row in read(f"hubness-{encoder}")["rows"]
    ]  # fmt: skip
    header = ("method", "parameters", "recall@1", "recall@10", "MRR@10", "skewness of N₁₀", "Robin Hood", "largest hub",
              "anti-hubs")  # fmt: skip
    return table(header, rows)


def hubness_minilm() -> str:
    """Of all-MiniLM-L6-v2."""
    return hubness_quality("minilm")


def hubness_words() -> str:
    """Of means of its word vectors."""
    return hubness_quality("words")


def hubness_times() -> str:
    """Fit and search beside other code for the same corrections."""
    results = processor("hubness")
    if results is None:
        return not_recorded("simtile bench hubness --peers --record")
    found = results["hubness"]
    shape, (_, header, rows) = found["shape"], report.hubness_times(found["processes"])
    whole = [row for row in rows if len(row) == len(header)]
    return (
        f"{shape['queries']:,} queries, {shape['gallery']:,} items, a bank of {shape['bank']:,}, 384 dimensions, "
        f"one thread of {on(results)} (`simtile bench hubness --peers --record`):\n\n"
        f"{table(header, whole, 'l' + 'r' * (len(header) - 1))}"
    )
