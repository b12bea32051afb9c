"""Recall for a budget of scorer calls, of every method of `simtile.cur` and its controls, on real scores.

    python benches/bench_cur_recall.py maxsim [--record]            500 x 5,000, late interaction of MiniLM's tokens
    python benches/bench_cur_recall.py cross-encoder [--record]     the finished rows of the cross-encoder's matrix

Half of the queries build the index. A fifth served to develop the engine and is not reported. The tables are about the
other three tenths, on which no setting was fitted. Their tables were seen before the sampling of sparse rows was last
changed. Prints Markdown; the JSON goes to `out/`, with --record to `results/`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import cross_encoder_data
import maxsim_data
from machine import OUT, RESULTS, environment
from simtile.cur import CallableScorer, CrossEncoderIndex, Limits, evaluate
from simtile.cur.index import Target
from simtile.cur.planning import MethodName

SEED = 0
BUILD_SHARE, TEST_SHARE = 0.5, 0.3
SPARSE_SHARE = 10
"""The sparse index is built from the tenth part of the dense one's calls."""

KINDS = ("dense", "sparse", "dense-words", "sparse-words")
"""Whole rows of scores or a sample of them; with the dual encoder's embeddings alone, or with the texts' words."""

Matrix = cross_encoder_data.CrossEncoderMatrix | maxsim_data.MaxSimMatrix


def split(n: int, shuffled: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to build from and rows to report; the generator of the cross-encoder's matrix has shuffled its rows."""
    order = np.arange(n) if shuffled else np.random.default_rng(SEED).permutation(n)
    return order[: int(BUILD_SHARE * n)], order[n - int(TEST_SHARE * n) :]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("data", choices=["maxsim", "cross-encoder"])
    arguments.add_argument("--index", choices=KINDS, help="one of the indexes; all by default")
    arguments.add_argument("--quick", action="store_true", help="raw scores, k = 10 and 100, budgets of 50 to 200")
    arguments.add_argument("--record", action="store_true")
    wanted = arguments.parse_args()
    data: Literal["maxsim", "cross-encoder"] = wanted.data
    matrix, queries, items = load(data)
    build, test = split(len(matrix.scores), shuffled=data == "cross-encoder")
    print(f"{data}: {len(build)} build queries, {len(test)} test queries, {len(items)} items")
    targets: tuple[Target, ...] = ("raw",) if wanted.quick else ("raw", "centred")
    OUT.mkdir(exist_ok=True)
    for kind in [wanted.index] if wanted.index else KINDS:
        start = time.monotonic()
        index = build_index(matrix, [queries[q] for q in build], items, kind)
        methods: dict[str, tuple[MethodName, ...]] = {"dense": ("rerank", "anncur", "adacur", "axn", "auto")}
        report = evaluate(
            index,
            [queries[q] for q in test],
            matrix.scores[test].astype(np.float64),
            query_embeddings=matrix.query_embeddings[test],
            methods=methods.get(kind, ("rerank", "axn", "auto") if kind == "sparse" else ("rerank", "auto")),
            budgets=(50, 100, 200) if wanted.quick else (50, 100, 200, 400),
            ks=(10, 100) if wanted.quick else (1, 10, 50, 100),
            targets=targets,
        )
        record = {
            "machine": environment(1), "build": len(build), "test": len(test), "items": len(items),
            "scorer_calls": index.stats.scored, "rows": report.rows(),
        }  # fmt: skip
        path = (RESULTS if wanted.record else OUT) / f"cur-{data}-{kind}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\n{kind} index: {index.stats.scored:,} scorer calls ({time.monotonic() - start:.0f} s in all)")
        for target in targets:
            print(f"\n{target} scores\n\n{report.table(target)}", flush=True)


def load(data: Literal["maxsim", "cross-encoder"]) -> tuple[Matrix, list[dict[str, Any]], list[dict[str, Any]]]:
    """The matrix, and its rows and columns as queries and items: their texts, and which they are."""
    if data == "maxsim":
        late = maxsim_data.load_matrix()
        return late, numbered(late.queries), numbered(late.items)
    crossed, texts = cross_encoder_data.load_matrix(), cross_encoder_data.load_texts()
    return crossed, numbered(texts.queries)[: len(crossed.scores)], numbered(texts.items)


def numbered(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"number": number, "text": text} for number, text in enumerate(texts)]


def build_index(
    matrix: Matrix, queries: list[dict[str, Any]], items: list[dict[str, Any]], kind: str
) -> CrossEncoderIndex:
    scorer = CallableScorer(
        lambda pairs: [float(matrix.scores[query["number"], item["number"]]) for query, item in pairs],
        version="matrix",
        limits=Limits(batch_size=1 << 16),
    )
    return CrossEncoderIndex.build(
        items,
        scorer,
        queries=queries,
        query_embeddings=matrix.query_embeddings[[query["number"] for query in queries]],
        item_embeddings=matrix.item_embeddings,
        lexical=kind.endswith("words"),
        dense=kind.startswith("dense"),
        calls_per_query=len(items) // SPARSE_SHARE,
    )


if __name__ == "__main__":
    main()
