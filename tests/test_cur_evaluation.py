"""The evaluation: recalls that a hand count confirms, controls, and what is paired."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simtile.cur import CallableScorer, CrossEncoderIndex, Limits, evaluate


@pytest.fixture(scope="module")
def parts() -> tuple[CrossEncoderIndex, np.ndarray, np.ndarray]:
    """An index of 30 build queries, the scores and the embeddings of 12 others."""
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(42, 6)), rng.normal(size=(200, 6))
    scores = queries @ items.T + 3.0 * rng.normal(size=200) + rng.normal(size=(42, 4)) @ rng.normal(size=(4, 200))
    scorer = CallableScorer(lambda pairs: [scores[q, i] for q, i in pairs], version="v", limits=Limits(batch_size=9999))
    index = CrossEncoderIndex.build(
        range(200), scorer, queries=range(30), query_embeddings=queries[:30], item_embeddings=items, dense=True, rank=4
    )
    return index, scores[30:], queries[30:]


def test_recalls_are_those_of_the_searches_and_of_the_lists(
    parts: tuple[CrossEncoderIndex, np.ndarray, np.ndarray],
) -> None:
    index, scores, queries = parts
    report = evaluate(index, range(30, 42), scores, query_embeddings=queries, budgets=(20, 40), ks=(1, 10, 30))
    assert {(budget, k) for _, budget, k, _ in report.recalls} == {(20, 1), (20, 10), (40, 1), (40, 10), (40, 30)}
    for target, offset in (("raw", 0.0), ("centred", index.item_means)):
        exact = np.argsort(-(scores - offset), axis=1)[:, :10]
        hits = index.search(range(30, 42), 10, budget=40, target=target, query_embeddings=queries)  # type: ignore[arg-type]
        found = [[hit["corpus_id"] for hit in row] for row in hits]
        expected = [np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]
        np.testing.assert_allclose(report.recalls[target, 40, 10, "auto"], expected)  # type: ignore[index]
    popular = np.argsort(-index.item_means)[:40]
    exact = np.argsort(-scores, axis=1)[:, :10]
    np.testing.assert_allclose(report.recalls["raw", 40, 10, "popularity"], np.isin(exact, popular).mean(axis=1))
    listed = np.argsort(-(queries @ index.vectors[:, 4:10].T), axis=1)
    half = [
        [*row[:20], *[i for i in np.argsort(-index.item_means) if i not in row[:20]][:20]] for row in listed.tolist()
    ]
    expected = [np.isin(e, h).mean() for e, h in zip(exact, half, strict=True)]
    np.testing.assert_allclose(report.recalls["raw", 40, 10, "half_and_half"], expected)


def test_differences_are_paired(parts: tuple[CrossEncoderIndex, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    index, scores, queries = parts
    report = evaluate(index, range(30, 42), scores, query_embeddings=queries, budgets=(40,), ks=(10,), targets=("raw",))
    key = ("raw", 40, 10, "auto")
    difference = report.recalls[key] - report.recalls["raw", 40, 10, "rerank"]
    assert report.gain(key, "rerank") == pytest.approx((difference.mean(), difference.std(ddof=1) / np.sqrt(12)))
    report.save(tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text())
    assert {row["method"] for row in rows} == {
        "rerank",
        "anncur",
        "adacur",
        "axn",
        "auto",
        "popularity",
        "half_and_half",
    }
    assert all(("gain_over_popularity" in row) == (row["method"] != "popularity") for row in rows)
    table = report.table().split("\n")
    assert table[0].startswith("| calls | k | rerank | anncur") and len(table) == 3 and "±" in table[2]


def test_a_plot_is_drawn(parts: tuple[CrossEncoderIndex, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    index, scores, queries = parts
    methods = ("rerank", "axn")
    evaluate(
        index, range(30, 42), scores, query_embeddings=queries, budgets=(20, 40), ks=(1, 10), methods=methods
    ).plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_scores_that_are_missing_are_refused(parts: tuple[CrossEncoderIndex, np.ndarray, np.ndarray]) -> None:
    index, scores, queries = parts
    with pytest.raises(ValueError, match=r"exact: finite scores of shape \(12, 200\)"):
        evaluate(index, range(30, 42), scores[:, :5], query_embeddings=queries)
