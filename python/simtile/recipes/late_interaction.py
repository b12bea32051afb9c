"""Recipes of late interaction: a docstring's words look for their best matches among a function's.

Word vectors are MiniLM's, frozen; a linear map of each word is learnt. The functions of a few hundred docstrings, of
packages that no training pair is from, are ranked by the mean over words of the best match's cosine (MaxSim), or by the
cosine of the words' mean.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from simtile.demo.model import TokenRows, minilm_word_table
from simtile.functional import score_info_nce
from simtile.late_interaction import maxsim
from simtile.recipes.claim import Outcome
from simtile.recipes.graded import code_pairs, spearman
from simtile.recipes.tasks import fit

if TYPE_CHECKING:
    from torch import distributed as dist

WIDTH = 64
TEMPERATURE = 0.05

Words: TypeAlias = tuple[Tensor, Tensor]
"""Unit vectors (words, WIDTH) of several texts, one after the other, and where each begins and the last one ends."""
Score: TypeAlias = Callable[[Words, Words], Tensor]


def best_matches(query: Words, code: Words) -> Tensor:
    """(Q, N) mean over a query's words of the best match's cosine."""
    return maxsim(query[0], code[0], query_indptr=query[1], document_indptr=code[1], aggregate="mean")


def best_match_of_the_mean(query: Words, code: Words) -> Tensor:
    """(Q, N) best match of the mean of a query's words: one vector against a set, as in SPRC."""
    mean = normalize(_means(query), dim=1)
    return maxsim(mean[:, None], code[0], document_indptr=code[1])


def means(query: Words, code: Words) -> Tensor:
    """(Q, N) cosines of the means of words."""
    return normalize(_means(query), dim=1) @ normalize(_means(code), dim=1).T


def _means(words: Words) -> Tensor:
    vectors, bounds = words
    lengths = bounds.diff()
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)
    return vectors.new_zeros(len(lengths), vectors.shape[1]).index_add(0, rows, vectors) / lengths[:, None]


class WordMap(nn.Module):
    """A linear map of word vectors, a score of the words of two texts, and a loss of these scores."""

    def __init__(self, task: LateCode) -> None:
        super().__init__()
        self.task, self.score, self.loss = task, task.score, task.pair_loss
        self.map = nn.Linear(task.table.shape[1], WIDTH, bias=False)
        nn.init.orthogonal_(self.map.weight)

    def words(self, texts: TokenRows, rows: np.ndarray[Any, Any]) -> Words:
        """Of some texts."""
        tokens, starts = texts.select(rows)
        return normalize(self.map(self.task.table[tokens]), dim=1), torch.cat([starts, torch.tensor([len(tokens)])])

    def forward(self, rows: Tensor) -> Tensor:
        query, code = (self.words(side, rows.numpy()) for side in self.task.train)
        loss: Tensor = self.loss(self.score(query, code), rows)
        return loss


class LateCode:
    """The task; a loss takes the scores (batch, batch) of docstrings against functions, and which pairs they are of."""

    name = "late interaction"

    def __init__(self, *, max_pairs: int, max_test: int) -> None:
        self.pair_loss: Any = None
        self.score: Score = means
        pairs = code_pairs(max_pairs)
        self.table = normalize(minilm_word_table(), dim=1)
        self.train = pairs.train_query, pairs.train_code
        self.test = pairs.test_query, pairs.test_code
        self.rows = np.arange(min(max_test, len(pairs.test_query)))

    def __len__(self) -> int:
        return len(self.train[0])

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return WordMap(self)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (rows[mine],)

    @torch.no_grad()
    def test_scores(self, model: nn.Module) -> Tensor:
        """(n, n) of the test docstrings against their functions."""
        assert isinstance(model, WordMap)
        return model.score(*(model.words(side, self.rows) for side in self.test))

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """recall@1 of the test docstrings."""
        scores = self.test_scores(objective)
        return {"recall@1": float((scores.argmax(1) == torch.arange(len(scores))).float().mean())}

    def facts(self) -> dict[str, Any]:
        return {"training pairs": len(self), "test pairs": len(self.rows)}


def in_batch(scores: Tensor, rows: Tensor) -> Tensor:
    """InfoNCE of the scores of a batch."""
    return score_info_nce(scores, temperature=TEMPERATURE)


def sprc(*, max_pairs: int, max_test: int, steps: int, batch: int, learning_rate: float, seed: int) -> Outcome:
    """The best match among a function's words beside the mean of its words, each trained with InfoNCE."""
    task = LateCode(max_pairs=max_pairs, max_test=max_test)
    found = {}
    for score in (best_matches, best_match_of_the_mean, means):
        task.score = score
        found[score] = fit(task, in_batch, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    names = {"words, best matches": best_matches, "mean, best match": best_match_of_the_mean, "mean, mean": means}
    table = {f"recall@1, {name}": found[score].after["recall@1"] for name, score in names.items()}
    table |= {f"recall@1, {name}, untrained": found[score].before["recall@1"] for name, score in names.items()}
    return Outcome(found[best_matches].after["recall@1"], found[means].after["recall@1"], table)


class Distilled(nn.Module):
    """(1 - c)·InfoNCE + c·‖a·scores + b - teacher's scores‖², as DSE weighs its task and its teacher."""

    def __init__(self, teacher: WordMap, share: float) -> None:
        super().__init__()
        self.teacher = [teacher]  # in a list, so that it is no part of what is trained
        self.share = share
        self.slope, self.offset = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, scores: Tensor, rows: Tensor) -> Tensor:
        (teacher,) = self.teacher
        with torch.no_grad():
            wanted = teacher.score(*(teacher.words(side, rows.numpy()) for side in teacher.task.train))
        apart = mse_loss((self.slope * scores + self.offset) / TEMPERATURE, wanted / TEMPERATURE)
        return (1 - self.share) * in_batch(scores, rows) + self.share * apart


def dse(
    *, max_pairs: int, max_test: int, steps: int, batch: int, learning_rate: float, share: float, seed: int
) -> Outcome:  # fmt: skip
    """Means of words that follow a late-interaction teacher's scores, beside means of words trained without it."""
    task = LateCode(max_pairs=max_pairs, max_test=max_test)
    trained = functools.partial(fit, task, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    task.score = best_matches
    teacher = trained(in_batch)
    assert isinstance(teacher.objective, WordMap)
    wanted = task.test_scores(teacher.objective)
    task.score = means
    agreement, table = {}, {"recall@1, teacher": teacher.after["recall@1"]}
    for name, loss in (("distilled", Distilled(teacher.objective, share)), ("task alone", in_batch)):
        student = trained(loss)
        agreement[name] = spearman(task.test_scores(student.objective), wanted)
        table[f"recall@1, {name}"] = student.after["recall@1"]
    return Outcome(agreement["distilled"], agreement["task alone"], table)
