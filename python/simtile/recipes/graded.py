"""Recipes of list-wise losses: functions are more or less relevant to a docstring, and a cheap encoder learns how much.

The relevance of a function is the share of a docstring's words, weighted by how rare they are, that the function holds:
a stand-in for what a language model or a human judge would say. What learns it never sees words: texts are means of
MiniLM's word vectors, frozen, and two linear maps are trained. Lists of 20 functions for each docstring, of packages
that no training pair is from, are ranked by cosine.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from simtile.demo.model import StaticEncoder, TokenRows, minilm_word_table
from simtile.functional import info_nce, multi_positive_info_nce
from simtile.listwise import stable_distillation, sts_loss, wasserstein_loss
from simtile.multitask import TaskBatches, delta_merge
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import CodePairs, fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import distributed as dist

WIDTH = 128
CANDIDATES = 6
"""In a training list."""
LISTED = 20
"""In a test list."""
TEMPERATURE = 0.05
RETRIEVAL, GRADED = 0, 1


class Texts:
    """One side of the split: features and words of N docstrings and functions, and features of functions' halves."""

    def __init__(self, encoder: StaticEncoder, query: TokenRows, code: TokenRows) -> None:
        self.features = [normalize(torch.from_numpy(encoder.encode(part)), dim=1) for part in (query, code)]
        middle = (code.starts[:-1] + code.starts[1:]) // 2
        halves = TokenRows(code.tokens, np.append(np.stack([code.starts[:-1], middle], 1), code.starts[-1]))
        self.halves = normalize(torch.from_numpy(encoder.encode(halves)).view(len(code), 2, -1), dim=2)
        used = torch.from_numpy(query.tokens).unique()
        self.words = torch.stack([_holds(part, used) for part in (query, code)])  # (2, N, words)
        rarity = (len(code) / (1.0 + self.words[1].sum(0))).log().clamp_min(0)
        self.query_weight = normalize(self.words[0] * rarity, p=1, dim=1)

    def __len__(self) -> int:
        return len(self.features[0])

    def lists(self, rows: Tensor, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(M, number) functions for each docstring, its own first, and their relevance in [0, 1]."""
        others = torch.randint(len(self), (len(rows), number - 1), generator=generator)
        found = torch.cat([rows[:, None], others], 1)
        weight = self.query_weight[rows]
        relevance = [(weight * self.words[1][column]).sum(1) for column in found.unbind(1)]
        return found, torch.stack(relevance, 1)


@functools.cache
def code_pairs(max_pairs: int) -> CodePairs:
    """The pairs of a run of several recipes."""
    return CodePairs(max_pairs=max_pairs)


@functools.cache
def _sides(max_pairs: int) -> tuple[Texts, Texts]:
    pairs, encoder = code_pairs(max_pairs), StaticEncoder(minilm_word_table())
    return (
        Texts(encoder, pairs.train_query, pairs.train_code), Texts(encoder, pairs.test_query, pairs.test_code)
    )  # fmt: skip


def _holds(texts: TokenRows, used: Tensor) -> Tensor:
    """(N, words) whether a text holds a word of ``used``, which is sorted."""
    tokens = torch.from_numpy(texts.tokens)
    rows = torch.arange(len(texts)).repeat_interleave(torch.from_numpy(texts.starts).diff())
    place = torch.searchsorted(used, tokens).clamp_max(len(used) - 1)
    known = used[place] == tokens
    found = torch.zeros(len(texts), len(used), dtype=torch.bool)
    found[rows[known], place[known]] = True
    return found


class GradedCode:
    """The task; a loss takes queries (M, D), candidates (M, K, D) and their relevance (M, K)."""

    name = "graded code"

    def __init__(self, *, max_pairs: int) -> None:
        self.pair_loss: Any = None
        self.start: dict[str, Tensor] | None = None
        self.train, self.test = _sides(max_pairs)
        self.test_lists = self.test.lists(torch.arange(len(self.test)), LISTED, torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.train)

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        model = TwoMaps(self.pair_loss)
        if self.start is not None:
            model.load_state_dict(self.start)
        return model

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        found, relevance = self.train.lists(rows[mine], CANDIDATES, generator)
        query, code = self.train.features
        return query[rows[mine]], code[found], relevance

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """NDCG and rank correlation of the test lists; recall@1 of the own function among all test functions."""
        assert isinstance(objective, TwoMaps)
        found, relevance = self.test_lists
        with torch.no_grad():
            query, code = objective.maps(*self.test.features)
        scores = (query[:, None] * code[found]).sum(2)
        best = (query @ code.T).argmax(1)
        return {
            "NDCG": ndcg(scores, relevance), "Spearman": spearman(scores, relevance),
            "recall@1": float((best == torch.arange(len(best))).float().mean()),
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        return {"training pairs": len(self), "test pairs": len(self.test)}


class TwoMaps(nn.Module):
    """A linear map each for docstrings and functions, equal at the start, and a loss."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss
        self.query, self.code = nn.Linear(384, WIDTH, bias=False), nn.Linear(384, WIDTH, bias=False)
        nn.init.orthogonal_(self.query.weight)
        self.code.weight.data.copy_(self.query.weight)

    def maps(self, query: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors."""
        return normalize(self.query(query), dim=-1), normalize(self.code(code), dim=-1)

    def forward(self, query: Tensor, code: Tensor, *more: Tensor) -> Tensor:
        loss: Tensor = self.loss(*self.maps(query, code), *more)
        return loss


def ndcg(scores: Tensor, relevance: Tensor) -> float:
    """Mean over lists of the discounted relevance, divided by the best order's; lists of none are left out."""
    discount = 1 / torch.arange(2.0, scores.shape[1] + 2).log2()
    got = (relevance.gather(1, scores.argsort(dim=1, descending=True)) * discount).sum(1)
    best = (relevance.sort(dim=1, descending=True).values * discount).sum(1)
    return float((got[best > 0] / best[best > 0]).mean())


def spearman(scores: Tensor, relevance: Tensor) -> float:
    """Mean over lists of the correlation of ranks, ties at their mean; lists of one relevance are left out."""
    places = []
    for values in (scores, relevance):
        ordered = values.sort(1).values
        below, upto = (torch.searchsorted(ordered, values.contiguous(), right=side) for side in (False, True))
        place = (below + upto).float()
        places.append(normalize(place - place.mean(1, keepdim=True), dim=1))
    varied = places[1].abs().sum(1) > 0
    return float((places[0] * places[1]).sum(1)[varied].mean())


def own_only(query: Tensor, candidates: Tensor, relevance: Tensor) -> Tensor:
    """InfoNCE as if there were only the own function: the own function against all candidates of the batch."""
    own = torch.arange(len(query)) * candidates.shape[1]
    return info_nce(query, candidates.flatten(0, 1), temperature=TEMPERATURE, targets=own)


def _outcome(metric: str, mine: dict[str, float], plain: dict[str, float], **more: dict[str, float]) -> Outcome:
    rows = {"this loss": mine, "InfoNCE": plain, **more}
    table = {
        f"{name}, {method.replace('_', ' ')}": value for method, row in rows.items() for name, value in row.items()
    }
    return Outcome(mine[metric], plain[metric], table)


def llm_embedder(
    *, max_pairs: int, steps: int, batch: int, learning_rate: float, reward_scale: float, seed: int
) -> Outcome:  # fmt: skip
    """Stable distillation with relevance as reward, beside InfoNCE."""

    def loss(query: Tensor, candidates: Tensor, relevance: Tensor) -> Tensor:
        return stable_distillation(
            query, candidates, reward_scale * relevance, temperature=TEMPERATURE, contrastive_weight=0.2
        )

    task = GradedCode(max_pairs=max_pairs)
    mine, plain = (
        fit(task, one, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed) for one in (loss, own_only)
    )
    return _outcome("Spearman", mine.after, plain.after, untrained=plain.before)


def sycl(
    *, max_pairs: int, steps: int, more_steps: int, batch: int, learning_rate: float, label_scale: float,
    temperature: float, seed: int,
) -> Outcome:  # fmt: skip
    """The Wasserstein distance of a batch's graded lists after InfoNCE, beside as much more InfoNCE."""

    def loss(query: Tensor, candidates: Tensor, relevance: Tensor) -> Tensor:
        labels = torch.block_diag(*(label_scale * relevance).split(1))
        return wasserstein_loss(query @ candidates.flatten(0, 1).T, labels, temperature=temperature)

    task = GradedCode(max_pairs=max_pairs)
    first = fit(task, own_only, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    task.start = first.objective.state_dict()
    mine, plain = (
        fit(task, one, steps=more_steps, batch=batch, learning_rate=learning_rate / 2, seed=seed + 1)
        for one in (loss, own_only)
    )
    return _outcome("Spearman", mine.after, plain.after, before=plain.before)


class TwoTasks(GradedCode):
    """Retrieval and graded pairs: the loop's rows give way to those of a sampler whose batches are of one task."""

    def __init__(self, *, max_pairs: int, batch: int, seed: int) -> None:
        super().__init__(max_pairs=max_pairs)
        self.batch_size, self.seed = batch, seed
        self.trained_on: tuple[int, ...] = (RETRIEVAL, GRADED)
        self.order: Iterator[tuple[int, list[int]]] = iter(())

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        self.order = self._endless()
        return super().objective(group, dense=dense)

    def _endless(self) -> Iterator[tuple[int, list[int]]]:
        """(task, rows) of the training side."""
        sizes = [len(self.train) if which in self.trained_on else 0 for which in (RETRIEVAL, GRADED)]
        sampler = TaskBatches(sizes, self.batch_size, seed=self.seed)
        for epoch in itertools.count():
            sampler.set_epoch(epoch)
            for which, rows in sampler.tagged():
                yield which, [row - which * sizes[RETRIEVAL] for row in rows]

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        which, chosen = next(self.order)
        rows = torch.tensor(chosen)
        query, code, relevance = super().batch(rows, slice(None), generator)
        if which == RETRIEVAL:  # two positives: the halves of the docstring's function
            code = torch.cat([self.train.halves[rows], code[:, 1:]], 1)
        return query, code, relevance, torch.tensor(which)


def codiemb(*, max_pairs: int, steps: int, batch: int, learning_rate: float, seed: int) -> Outcome:
    """A loss for each of two tasks in batches of one task, beside InfoNCE; and checkpoints of single tasks, merged."""

    def of_its_task(query: Tensor, code: Tensor, relevance: Tensor, which: Tensor) -> Tensor:
        if which == RETRIEVAL:
            return multi_positive_info_nce(query, code[:, :2], code[:, 2:], temperature=TEMPERATURE)
        listed = query.repeat_interleave(code.shape[1], 0)
        return sts_loss(listed, code.flatten(0, 1), relevance.flatten())

    def info_nce_for_all(query: Tensor, code: Tensor, relevance: Tensor, which: Tensor) -> Tensor:
        return own_only(query, code, relevance)

    task = TwoTasks(max_pairs=max_pairs, batch=batch, seed=seed)
    trained = functools.partial(fit, task, batch=batch, learning_rate=learning_rate, seed=seed)
    mine, plain = (trained(loss, steps=steps) for loss in (of_its_task, info_nce_for_all))
    single = []
    for which in (RETRIEVAL, GRADED):
        task.trained_on = (which,)
        single.append(trained(of_its_task, steps=steps // 2).objective.state_dict())
    torch.manual_seed(seed)
    merged = task.objective(None, dense=False)
    merged.load_state_dict(delta_merge(merged.state_dict(), single))
    return _outcome("Spearman", mine.after, plain.after, untrained=plain.before, merged=task.evaluate(merged))
