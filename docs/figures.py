"""Figures within sentences, made of the JSON in benches/results/ as the tables are.

    at <!-- value NAME -->0.939<!-- /value -->            what the function NAME of this file returns

A line that begins with a comment is no text to Markdown, so that a marker never stands first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recorded import RESULTS, not_recorded, read


def spread(values: Sequence[float], style: str) -> str:
    """The least and the greatest, once where they read the same."""
    low, high = format(min(values), style), format(max(values), style)
    return low if low == high else f"{low} to {high}"


def saturation_errors() -> str:
    """Errors of float32 gradients at the middle loss of the table."""
    row = sorted(read("saturation")["rows"], key=lambda row: -row["loss"])[1]
    ours, dense = row["error"]["simtile float32"], row["error"]["torch float32"]
    return f"at a loss of {row['loss']:.0e} it is {ours:.1e} here and {dense:.1e} in dense torch"


def _auto_recalls(kind: str) -> list[float]:
    """Recall@100 of raw scores at 100, 200 and 400 calls, of both data sets."""
    return [
        row["recall"]
        for name in ("maxsim", "cross-encoder")
        for row in read(f"cur-{name}-{kind}")["rows"]
        if (row["target"], row["k"], row["method"]) == ("raw", 100, "auto")
    ]


def words_gain() -> str:
    """What words add to an index of whole rows, over the budgets of its table."""
    pairs = zip(_auto_recalls("dense-words"), _auto_recalls("dense"), strict=True)
    return f"{spread([100 * (words - plain) for words, plain in pairs], '.1f')} points"


def sparse_loss() -> str:
    """What a tenth of the calls costs, against whole rows with the same features."""
    losses = []
    for words in ("-words", ""):
        whole, part = (_auto_recalls(f"{kind}{words}") for kind in ("dense", "sparse"))
        losses.append([100 * (more - less) for more, less in zip(whole, part, strict=True)])
    with_words, without = (spread(found, ".1f") for found in losses)
    return f"{with_words} points with words and {without} without"


def sparse_words_over_plain() -> str:
    """A tenth of the calls, with words, against whole rows without."""
    pairs = zip(_auto_recalls("sparse-words"), _auto_recalls("dense"), strict=True)
    return spread([100 * (sparse - whole) for sparse, whole in pairs], "+.1f")


def pixels_knn() -> str:
    """What raw pixels reach with all labels."""
    return f"{read('train_simclr')['after']['5-NN, raw pixels']:.3f}"


def training_seconds() -> str:
    """The shortest and the longest job."""
    return f"{spread([read(f'train_{task}')['seconds']['total'] for task in ('clip', 'simclr', 'sentence')], '.0f')} s"


def recipe_seconds() -> str:
    """CPU time of the longest recipe."""
    return f"{max(found['cpu_seconds'] for found in read('recipes').values()):.0f} s"


def trained_capacity() -> str:
    """Documents whose pairs training solves at d = 4."""
    return f"{read('recipes')['limit']['table']['capacity at d = 4, by training']:.0f}"


def two_workers() -> str:
    """Two workers over one, and what else the machine did."""
    found = read("scale")
    gains = [found["seconds"][job]["one_worker"] / found["seconds"][job]["two_workers"] for job in found["flop"]]
    load = found["load_before_and_after"][0][0]
    return f"{spread(gains, '.2f')} times as fast as one, on two cores whose load was {load:.1f} before the run"


def graph_pays() -> str:
    """Queries a vector from which a graph's building is worth it."""
    if not (RESULTS / "search_growth.json").exists():
        return not_recorded("python benches/bench_search_growth.py --record")
    return spread([row["pays_from"] / row["n"] for row in read("search_growth")["rows"]], ".1f")


VALUES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        saturation_errors, words_gain, sparse_loss, sparse_words_over_plain, pixels_knn, training_seconds,
        recipe_seconds, trained_capacity, two_workers, graph_pays,
    )
}  # fmt: skip
