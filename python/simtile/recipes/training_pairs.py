"""Recipes on the docstrings of the standard library: which pairs train a retriever, which words go together."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from simtile.corpus import resample_train
from simtile.demo.model import StaticEncoder, minilm_word_table
from simtile.functional import info_nce
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import CodePairs, Fitted, PairLoss, fit
from simtile.search import ExactIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import distributed as dist

TEMPERATURE = 0.05


class SomePairs:
    """A part of the training pairs; the test is the whole task's."""

    name = "some code pairs"

    def __init__(self, task: CodePairs, rows: NDArray[np.int64]) -> None:
        self.task, self.rows = task, torch.from_numpy(rows)
        self.pair_loss: PairLoss | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        self.task.pair_loss = self.pair_loss
        return self.task.objective(group, dense=dense)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.task.batch(self.rows[rows], mine, generator)

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        return self.task.evaluate(objective)

    def facts(self) -> dict[str, Any]:
        return self.task.facts() | {"training pairs": len(self)}


def interpolation(*, max_pairs: int, top_k: int, steps: int, batch: int, learning_rate: float, seed: int) -> Outcome:
    """Trained on pairs whose docstring is near a test query, and on as many whose docstring is near none."""
    task = CodePairs(max_pairs=max_pairs)
    encoder = StaticEncoder(minilm_word_table())
    train, test = (encoder.encode(texts) for texts in (task.train_query, task.test_query))
    sets = resample_train(train, test, top_k=top_k, seed=seed)
    near, far = (_trained(task, rows, steps, batch, learning_rate, seed) for rows in sets)
    table = {"pairs of each training set": float(len(sets.interpolation))}
    for name, fitted in (("interpolation", near), ("extrapolation", far)):
        table |= {f"{metric}, {name}": value for metric, value in fitted.after.items()}
    table["recall@10 before training"] = near.before["recall@10"]
    return Outcome(near.after["recall@10"], far.after["recall@10"], table)


def ppmi(*, max_pairs: int, words: int, dim: int, k: int) -> Outcome:
    """Words by what they occur with: positive pointwise mutual information, its singular vectors, an index of them."""
    texts = [set(re.findall("[a-z]+", pair.query.lower())) for pair in CodePairs(max_pairs=max_pairs).corpus.train]
    counts = Counter(word for text in texts for word in sorted(text))
    place = {word: i for i, (word, _) in enumerate(counts.most_common(words))}
    bags = np.zeros((len(texts), len(place)), np.float32)
    for row, text in zip(bags, texts, strict=True):
        row[[place[word] for word in text if word in place]] = 1.0
    together = (bags.T @ bags).astype(np.float64)
    np.fill_diagonal(together, 0.0)
    alone = together.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(together * together.sum() / (alone[:, None] * alone))
    left, values, _ = np.linalg.svd(np.where(information > 0, information, 0.0), hermitian=True)
    pairs = np.array([(place[word], place[word + "s"]) for word in place if word + "s" in place])

    def found(vectors: NDArray[np.float64]) -> float:
        _, ids = ExactIndex(vectors, metric="cosine").search(vectors[pairs[:, 0]], k + 1)  # each finds itself, too
        return float((ids == pairs[:, 1:]).any(axis=1).mean())

    table = {"words": float(len(place)), "words with a plural": float(len(pairs)), "by chance": k / len(place)}
    return Outcome(found(left[:, :dim] * np.sqrt(values[:dim])), found(together), table)


def _trained(
    task: CodePairs, rows: NDArray[np.int64], steps: int, batch: int, learning_rate: float, seed: int
) -> Fitted:
    def loss(query: Tensor, code: Tensor, ids: Tensor) -> Tensor:
        return info_nce(query, code, temperature=TEMPERATURE, symmetric=True)

    return fit(SomePairs(task, rows), loss, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
