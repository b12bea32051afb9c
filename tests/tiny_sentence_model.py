"""Sentence models small enough for tests, built here: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = ("a", "red", "green", "small", "large", "bird", "stone", "river", "sleeps", "shines", "runs", "over")
WIDTH = 16


def word_tokenizer(words: tuple[str, ...] = WORDS) -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


def sentence_model(folder: Path, seed: int = 0, words: tuple[str, ...] = WORDS) -> SentenceTransformer:
    """One layer of BERT with random weights and mean pooling, embeddings (B, 16), no dropout."""
    tokenizer = word_tokenizer(words)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(WIDTH)], device="cpu")


class Given(torch.nn.Module):
    """A model whose features hold the embeddings already."""

    max_seq_length = 16

    def __init__(self, name: str) -> None:
        super().__init__()
        self.tokenizer, self.name = word_tokenizer(), name

    def __getitem__(self, number: int) -> Given:
        return self

    def get_embedding_dimension(self) -> None:
        """MatryoshkaLoss asks for it; unknown."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The embeddings under this model's name."""
        return {"sentence_embedding": features[self.name]}
