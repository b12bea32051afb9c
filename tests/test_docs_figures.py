"""A figure in the prose of README or a page is made of recorded results, or is none that was measured."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import figures  # noqa: E402
import tables  # noqa: E402

PAGES = [*tables.pages(), *sorted(ROOT.glob("docs/tutorials/*.md"))]
# Without MiB: so are budgets of memory written, which are chosen.
UNITS = (
    "ms|µs|ns|s|seconds?|minutes?|hours?|FLOP/s|GFLOP/s|[kMGT]B|queries/s|queries a second|x|×|times|%|per cent|points?"
)
MEASURED = re.compile(rf"(?<![\w.])\d[\d.,]*\s?(?:{UNITS})(?!\w)")
GIVEN = re.compile(
    r"^```.*?^```|^    .*?$|`[^`\n]*`|<!-- table .*?<!-- end -->|<!-- value .*?<!-- /value -->",
    re.DOTALL | re.MULTILINE,
)
"""Code, formulas, and what is made of recorded results."""

NOT_MEASURED = {
    "amcl.md": {"100,000 times": "1 over a temperature of 1e-5"},
    "clip_rocket.md": {"268 MB": "4 bytes times 8,192²"},
    "faults.md": {"50 ms": "what the test does"},
    "hubness.md": {"2s": "twice the score s"},
    "late_interaction.md": {"403 MB": "4 bytes times 256 · 32 · 256 · 48"},
    "mixing.md": {"1 times": "a formula", "0.4 times": "a formula"},
    "numerics.md": {"1,003 ×": "a shape"},
    "progressive_info_nce.md": {"25.6 GB": "4 bytes times 80,000²"},
    "scale.md": {"2 GB": "an example's assumption", "200 GFLOP/s": "the same", "100 ms": "advice"},
    "sup_con.md": {"0.1 times": "a formula"},
    "training.md": {"10 ×": "a margin", "5 points": "a margin"},
}
"""Figures that look measured, and why they are not."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_in_prose_is_written_by_hand(page):
    prose = GIVEN.sub("", page.read_text(encoding="utf-8"))
    assert set(MEASURED.findall(prose)) == set(NOT_MEASURED.get(page.name, ())), (
        "a marker of docs/figures.py, or a reason"
    )


def test_every_figure_stands_in_a_sentence_and_no_marker_begins_a_line():
    texts = [page.read_text(encoding="utf-8") for page in tables.pages()]
    assert {name for text in texts for _, name, *_ in tables.VALUE.findall(text)} == set(figures.VALUES)
    for text in texts:
        assert text.count("<!-- value ") == text.count("<!-- /value -->") == len(tables.VALUE.findall(text))
        assert not re.search(r"^<!-- /?value", text, re.MULTILINE)


def test_a_figure_written_by_hand_is_noticed():
    for text in ("took 12.5 ms", "2.2x faster", "a gain of 7 %", "1,200 queries a second", "at 118 GFLOP/s"):
        assert MEASURED.search(GIVEN.sub("", text))
    assert not MEASURED.search(
        GIVEN.sub("", "`1 ms`, <!-- value recipe_seconds -->71 s<!-- /value -->, 16 MiB, 384 dimensions")
    )


@pytest.mark.parametrize("kind", ["dense", "sparse", "dense-words", "sparse-words"])
@pytest.mark.parametrize("data", ["maxsim", "cross-encoder"])
def test_auto_was_nowhere_worse_than_reranking_or_the_controls(data, kind):
    ours = [row for row in tables.read(f"cur-{data}-{kind}")["rows"] if row["method"] == "auto"]
    assert len(ours) == 30
    for row in ours:
        assert row["gain_over_rerank"] >= -row["gain_over_rerank_error"]
        for control in ("popularity", "half_and_half"):
            assert row[f"gain_over_{control}"] >= -row[f"gain_over_{control}_error"]


@pytest.mark.parametrize("name", ["cur-maxsim-dense", "cur-cross-encoder-dense"])
def test_what_the_page_on_cross_encoders_says_of_its_tables_holds(name):
    recalls: dict[tuple[str, int, int], dict[str, float]] = {}
    for row in tables.read(name)["rows"]:
        recalls.setdefault((row["target"], row["budget"], row["k"]), {})[row["method"]] = row["recall"]
    cases = [found for (_, _, k), found in recalls.items() if k > 1]
    for found in cases:
        assert found["auto"] > max(found[other] for other in ("popularity", "half_and_half", "anncur", "adacur", "axn"))
    for published in ("anncur", "adacur"):
        assert sum(found[published] < found["rerank"] for found in cases) > len(cases) / 2
    if name == "cur-cross-encoder-dense":
        of_raw = {key: found for key, found in recalls.items() if key[0] == "raw" and key[2] > 1}
        assert all((found["axn"] > found["rerank"]) == (budget >= 200) for (_, budget, _), found in of_raw.items())
