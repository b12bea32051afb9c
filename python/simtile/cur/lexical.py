"""Words, and parts of words, as features: what an embedding blurs and a cross-encoder reads.

    x = [tf-idf of words | tf-idf of trigrams] / √2 · U        latent semantic analysis [1]

U are the leading right singular vectors of the items' rows. Words are split at underscores and capitals, so that names
in code are made of words too. Terms are hashed: no vocabulary is kept, and a new word costs nothing.

[1] Deerwester et al. 1990, "Indexing by latent semantic analysis", JASIS 41 (6).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile._extras import missing_extra

__all__ = ["LexicalEncoder", "texts_of"]

WIDTH = 256
_BUCKETS = 1 << 14
"""Of words, and again of trigrams."""
_MOST_TEXTS = 20_000
"""That are learned from, evenly spaced."""
_SEAMS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")


class LexicalEncoder:
    """Texts to rows whose inner products approximate the cosines of their term vectors.

    Attributes
    ----------
    frequencies : float32 (2 · buckets,)      inverse document frequencies
    components : float32 (2 · buckets, d)      U
    """

    def __init__(self, frequencies: NDArray[np.float32], components: NDArray[np.float32]) -> None:
        self.frequencies, self.components = frequencies, components

    @classmethod
    def fit(cls, texts: Sequence[str]) -> LexicalEncoder:
        """Learn frequencies and components from the items' texts (needs scikit-learn). The same for the same texts."""
        encoder = cls(np.empty(0, np.float32), np.empty((0, 0), np.float32))
        texts = texts[:: -(-len(texts) // _MOST_TEXTS)]
        counts = encoder._counts(texts)
        from sklearn.utils.extmath import randomized_svd

        seen = counts.getnnz(axis=0)
        encoder.frequencies = (np.log((1 + len(texts)) / (1 + seen)) + 1.0).astype(np.float32)
        there = np.flatnonzero(seen)
        if not len(there):
            raise ValueError("items: with lexical=True a word in at least one of them")
        width = min(WIDTH, len(texts), len(there))
        encoder.components = np.zeros((2 * _BUCKETS, width), np.float32)
        rows = encoder._weighted(counts)[:, there]
        encoder.components[there] = randomized_svd(rows, width, n_iter=3, random_state=0)[2].T
        return encoder

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Rows (N, d) of N texts, no longer than 1; zero for a text without a known term."""
        if not len(texts):
            return np.empty((0, self.components.shape[1]), np.float32)
        return np.asarray(self._weighted(self._counts(texts)) @ self.components, np.float32)

    def _counts(self, texts: Sequence[str]) -> Any:
        """Terms (N, 2 · buckets) of each text, a sparse matrix."""
        parts = [hashing.transform(texts) for hashing in self._hashings]
        from scipy.sparse import hstack

        return hstack(parts, format="csr")

    @cached_property
    def _hashings(self) -> list[Any]:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
        except ModuleNotFoundError as error:
            raise missing_extra(error) from None
        options: dict[str, Any] = {"n_features": _BUCKETS, "norm": None, "alternate_sign": False}
        options |= {"preprocessor": _separated, "dtype": np.float32}
        return [
            HashingVectorizer(token_pattern=r"[^\W_]+", **options),
            HashingVectorizer(analyzer="char_wb", ngram_range=(3, 3), **options),
        ]

    def _weighted(self, counts: Any) -> Any:
        """Counts to tf-idf: (1 + ln tf) · idf, words and trigrams of length √½ each."""
        from scipy.sparse import hstack
        from sklearn.preprocessing import normalize

        rows = counts.copy()
        rows.data = (1.0 + np.log(rows.data)) * self.frequencies[rows.indices]
        halves = [normalize(rows[:, half]) for half in (slice(None, _BUCKETS), slice(_BUCKETS, None))]
        return hstack(halves, format="csr") * 0.5**0.5


def _separated(text: str) -> str:
    """Names as words: ``minSampleSplit`` and ``min_sample_split`` alike."""
    return _SEAMS.sub(" ", text).lower()


def texts_of(name: str, values: Sequence[Any]) -> list[str]:
    """The texts of queries or items that are texts, or mappings with a "text". Raises TypeError, naming ``name``."""
    texts: list[str] = []
    for i, value in enumerate(values):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise TypeError(f'{name}: with lexical=True texts, or mappings with a "text", got {value!r} at {i}')
        texts.append(text)
    return texts
