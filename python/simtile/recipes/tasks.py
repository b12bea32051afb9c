"""The small tasks that recipes train on, each with a loss of the recipe's: the trainers' data, models and loop.

    CodePairs     docstrings and functions of the standard library, one table of word vectors, recall on unseen modules
    DigitViews    MNIST, two distorted views, a small convolutional encoder, 5-NN and linear probe
    Glyphs        images of characters and their Unicode names, two towers, recall of held-out characters

A task holds data and is built once; :func:`fit` trains a fresh model on it, so that a method and its baseline see equal
weights, batches and distortions. A loss takes two matrices (batch, D) and what says which rows belong together,
``loss(a, b, ids)``. One that is a module is trained too, and has to be a fresh one for every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from simtile.demo.corpus import default_cache_dir
from simtile.demo.evaluate import evaluate
from simtile.demo.job import Options, obtain_corpus
from simtile.demo.model import MiniLMTokenizer, StaticEncoder, TokenRows, minilm_word_table
from simtile.trainers import loop
from simtile.trainers.clip import GlyphsAndNames, TwoTowers
from simtile.trainers.simclr import Digits, SimCLR

if TYPE_CHECKING:
    from torch import distributed as dist

PairLoss = Callable[..., Tensor]
"""``loss(a, b, ids)`` of the tasks here; a recipe's own task says what else it passes."""


class LossTask(loop.Task, Protocol):
    """A task whose loss is given by the recipe."""

    pair_loss: PairLoss | None


@dataclass(frozen=True)
class Fitted:
    """A trained model, its metrics before and after, and the loss of every step."""

    objective: nn.Module
    before: dict[str, float]
    after: dict[str, float]
    losses: list[float]


def fit(task: LossTask, loss: PairLoss, *, steps: int, batch: int, learning_rate: float, seed: int) -> Fitted:
    """Train a fresh model of ``task`` with ``loss``; equal seeds give equal weights and batches."""
    task.pair_loss = loss
    torch.manual_seed(seed)
    objective = task.objective(None, dense=False)
    before = task.evaluate(objective)
    losses = loop.train(task, objective, loop.Settings(steps, min(batch, len(task)), learning_rate, seed))
    return Fitted(objective, before, task.evaluate(objective), losses)


class CodePairs:
    """Docstrings find their functions: ``loss(query, code, rows)``, embeddings not normalised.

    Parameters
    ----------
    max_pairs : int
        Of the training side; an eighth as many are tested on, from other modules of the standard library.
    """

    name = "code pairs"

    def __init__(self, *, max_pairs: int = 8_192) -> None:
        self.pair_loss: PairLoss | None = None
        self.corpus = obtain_corpus(
            Options(
                output=Path(), cache_dir=default_cache_dir(), batch=0, epochs=0, max_pairs=max_pairs,
                max_test=max(max_pairs // 8, 10), seed=0, workers=min(os.cpu_count() or 1, 8), stdlib_only=True,
            )
        )  # fmt: skip
        tokenize = MiniLMTokenizer()
        self.train_query, self.train_code = (
            tokenize([getattr(pair, side) for pair in self.corpus.train]) for side in ("query", "code")
        )
        self.test_query, self.test_code = (
            tokenize([getattr(pair, side) for pair in self.corpus.test]) for side in ("query", "code")
        )

    def __len__(self) -> int:
        return len(self.train_query)

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return CodeSearch(self.pair_loss, self.train_query, self.train_code)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (rows[mine],)

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """recall@1 and recall@10 of the test queries among all test functions."""
        assert isinstance(objective, CodeSearch)
        found = evaluate(objective.encoder.encode(self.test_query), objective.encoder.encode(self.test_code))
        return {"recall@1": found.recall_at_1, "recall@10": found.recall_at_10, "MRR@10": found.mrr_at_10}

    def facts(self) -> dict[str, Any]:
        return {"training pairs": len(self), "test pairs": len(self.test_query)}


class CodeSearch(nn.Module):
    """The static encoder and a loss."""

    def __init__(self, loss: PairLoss | None, query: TokenRows, code: TokenRows) -> None:
        super().__init__()
        self.encoder = StaticEncoder(minilm_word_table())
        self.loss, self.query, self.code = loss, query, code

    def forward(self, rows: Tensor) -> Tensor:
        assert self.loss is not None, "fit() sets the loss"
        places = rows.numpy()
        return self.loss(self.encoder(self.query, places), self.encoder(self.code, places), rows)


class DigitViews(Digits):
    """Digits without labels: ``loss(a, b, labels)``, projections of two views; a loss that is honest ignores labels."""

    def __init__(self, *, max_images: int | None = None) -> None:
        super().__init__(max_images=max_images)
        self.pair_loss: PairLoss | None = None
        self.training_labels = torch.from_numpy(self.labels[: self.n_train])

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return TwoViews(self.pair_loss)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        return *super().batch(rows, mine, generator), self.training_labels[rows[mine]]


class TwoViews(SimCLR):
    """SimCLR's encoder and projection, and a loss."""

    def __init__(self, loss: PairLoss | None) -> None:
        super().__init__(None, dense=False)
        self.loss = loss

    def forward(self, view_a: Tensor, view_b: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        assert self.loss is not None, "fit() sets the loss"
        return self.loss(*self.projections(view_a, view_b), labels)


class Glyphs(GlyphsAndNames):
    """Characters and their names: ``loss(image, text, codes)``; equal codes are one character."""

    def __init__(self, *, max_characters: int | None = None) -> None:
        super().__init__(max_characters=max_characters)
        self.pair_loss: PairLoss | None = None

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return GlyphTowers(len(self.names.words), self.pair_loss)


class GlyphTowers(TwoTowers):
    """Both towers, and a loss with its own scale."""

    def __init__(self, words: int, loss: PairLoss | None) -> None:
        super().__init__(words, "info_nce", None, dense=False)
        self.pair_loss = loss

    def forward(self, images: Tensor, words: Tensor, starts: Tensor, ids: Tensor) -> Tensor:
        assert self.pair_loss is not None, "fit() sets the loss"
        return self.pair_loss(self.image(images), self.text(words, starts), ids)
