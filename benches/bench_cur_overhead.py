"""What a search costs besides the scorer: 1M items of 128 features rounded to bytes, 100 calls a query in 2 rounds.

    python benches/bench_cur_overhead.py [--record] [--items 1000000]

The scorer of the search answers at once, so that everything else is left; its own time is that of the bundled ms-marco
cross-encoder for as many pairs of about 40 tokens, one thread, measured in turns with the searches. The second line is
the search of one round alone, items of a query excluded, against a NumPy product and `argpartition`. Random vectors:
the time does not depend on what they mean. Prints JSON; the file goes to `out/`, with --record to `results/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from cross_encoder_data import bundled_scorer
from machine import OUT, RESULTS, environment
from simtile.cur import CallableScorer, CrossEncoderIndex, Limits, ScoreJournal
from simtile.cur.buying import Shop
from simtile.cur.item_matrix import ItemMatrix
from simtile.cur.knowledge import Knowledge
from simtile.cur.learned import BuildScores, Learned
from simtile.cur.posterior import Choice
from simtile.cur.retrieval import Retrieval

BUDGET, ROUNDS, K, REPEATS = 100, 2, 10, 7
FACTORS, EMBEDDING = 62, 64  # with the mean and the constant, 128 features


def make_index(n: int, rng: np.random.Generator) -> CrossEncoderIndex:
    """An index of random knowledge; only its size matters here."""
    scorer = CallableScorer(lambda pairs: [0.0] * len(pairs), version="instant", limits=Limits(batch_size=BUDGET))
    embeddings = rng.standard_normal((n, EMBEDDING), np.float32)
    retrieval = Retrieval(n, embeddings, None, "int8")
    knowledge = Knowledge(FACTORS, "int8", None)
    learned = Learned(
        rng.normal(size=n), rng.normal(size=(n, FACTORS)), 1.0, np.zeros(EMBEDDING), 0.0, 1.0, 1.0,
        rng.normal(size=(EMBEDDING, FACTORS)), np.ones(FACTORS),
    )  # fmt: skip
    choices = {(K, BUDGET, ROUNDS, False): Choice()}
    knowledge.restore(BuildScores([np.arange(1)], [np.zeros(1)], n), learned, choices)
    return CrossEncoderIndex(Shop(scorer, ScoreJournal(None, version="instant"), range(n)), retrieval, knowledge, ["q"])


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--record", action="store_true")
    arguments.add_argument("--items", type=int, default=1_000_000)
    wanted = arguments.parse_args()
    rng = np.random.default_rng(0)
    index = make_index(wanted.items, rng)
    query = rng.standard_normal((1, EMBEDDING), np.float32)

    def search() -> None:
        index.search([0], K, budget=BUDGET, rounds=ROUNDS, query_embeddings=query)

    model = bundled_scorer()
    text = "def prime_factors(n): factors = []; d = 2; while n > 1: while n % d == 0: factors.append(d)"
    pairs = [("return the prime factors of an integer", text)] * BUDGET

    vectors = index.vectors
    matrix = ItemMatrix(vectors)
    latent, scored = rng.standard_normal((1, vectors.shape[1]), np.float32), rng.choice(wanted.items, (1, BUDGET // 2))

    def numpy_top() -> np.ndarray:
        scores = vectors @ latent[0]
        scores[scored[0]] = -np.inf
        best = np.argpartition(-scores, BUDGET // 2)[: BUDGET // 2]
        return best[np.argsort(-scores[best], kind="stable")]

    def fused_top() -> np.ndarray:
        return matrix.top(latent, BUDGET // 2, allowed=None, scored=scored)[1][0]

    assert set(numpy_top()) == set(fused_top())
    search()
    times: dict[str, list[float]] = {"search": [], "scorer": [], "fused": [], "numpy": []}
    for _ in range(REPEATS):
        times["search"].append(seconds(search))
        times["scorer"].append(seconds(lambda: [model.score([pair]) for pair in pairs]))
        times["fused"].append(seconds(fused_top))
        times["numpy"].append(seconds(numpy_top))
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "items": wanted.items,
        "features": vectors.shape[1],
        "seconds": medians,
        "search_over_scorer": medians["search"] / medians["scorer"],
        "numpy_over_fused": medians["numpy"] / medians["fused"],
        "environment": environment(1),
    }
    OUT.mkdir(exist_ok=True)
    path = (RESULTS if wanted.record else OUT) / "cur-overhead.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
