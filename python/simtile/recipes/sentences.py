"""Docstrings and functions again: queues and repeated words, a bank of entries, layers that can be cut, experts."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from simtile.augment import word_repetition
from simtile.demo.model import MiniLMTokenizer, StaticEncoder, TokenRows, minilm_word_table
from simtile.functional import focal_info_nce, info_nce, list_mixing, pair_mixing
from simtile.losses import MomentumQueue, momentum_update
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import CodePairs, CodeSearch, fit
from simtile.search import ExactIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import distributed as dist

WIDTH = 384
TEMPERATURE = 0.05


class Docstrings(CodePairs):
    """Two views of each docstring: as it is, and with words repeated; the negatives are the batch and a queue."""

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return RepeatedWords(self.train_query, self.train_code)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        ids, mask = _padded(self.train_query, rows[mine].numpy())
        return rows[mine], *word_repetition(ids, mask, generator=generator)


class RepeatedWords(CodeSearch):
    """The static encoder, its slow follower, and ESimCSE's loss with a queue of 2.5 batches."""

    def __init__(self, query: TokenRows, code: TokenRows) -> None:
        super().__init__(None, query, code)
        self.follower = copy.deepcopy(self.encoder).requires_grad_(False)
        self.queue: MomentumQueue | None = None

    def forward(self, rows: Tensor, *views: Tensor) -> Tensor:
        longer, mask = views
        starts = torch.cat([mask.new_zeros(1), mask.sum(1).cumsum(0)[:-1]])
        one, two = self.encoder(self.query, rows.numpy()), self.encoder.words(longer[mask.bool()], starts)
        queue = self.queue = self.queue or MomentumQueue(int(2.5 * len(rows)), WIDTH)
        past = queue.keys().clone() if queue.filled else None
        loss = info_nce(one, two, temperature=TEMPERATURE, negatives=past)
        momentum_update(self.follower, self.encoder, 0.995)
        with torch.no_grad():
            queue.push(self.follower(self.query, rows.numpy()))
        return loss


def esimcse(*, steps: int, batch: int, pairs: int, seed: int) -> Outcome:
    """Docstrings alone, no pairs: do they find their functions better than with the pretrained word vectors?"""
    task = Docstrings(max_pairs=pairs)
    found = fit(task, info_nce, steps=steps, batch=batch, learning_rate=2e-3, seed=seed)
    return Outcome(
        found.after["recall@10"], found.before["recall@10"],
        {"recall@1": found.after["recall@1"], "recall@1 before": found.before["recall@1"]},
    )  # fmt: skip


def defsent(*, steps: int, batch: int, pairs: int, seed: int) -> Outcome:
    """Docstrings as definitions, names of functions as entries: softmax over a bank of all frozen entry embeddings."""
    task = CodePairs(max_pairs=pairs)
    names, entry = np.unique([_entry(pair.code) for pair in task.corpus.train], return_inverse=True)
    frozen = StaticEncoder(minilm_word_table())
    bank = torch.from_numpy(frozen.encode(MiniLMTokenizer()(names.tolist())))
    target = torch.from_numpy(entry)

    def loss(query: Tensor, code: Tensor, rows: Tensor) -> Tensor:
        return info_nce(query, bank, targets=target[rows], temperature=TEMPERATURE)

    run = fit(task, loss, steps=steps, batch=batch, learning_rate=2e-3, seed=seed)
    unseen, own = np.unique([_entry(pair.code) for pair in task.corpus.test], return_inverse=True)
    index = ExactIndex(frozen.encode(MiniLMTokenizer()(unseen.tolist())), metric="cosine")

    def recall(encoder: Any) -> float:
        _, ids = index.search(encoder.encode(task.test_query), 10)
        return float((ids == own[:, None]).any(1).mean())

    return Outcome(
        recall(run.objective.encoder), recall(frozen),
        {"entries in the bank": len(names), "unseen entries": len(unseen),
         "docstring to function, recall@1": run.after["recall@1"],
         "docstring to function before, recall@1": run.before["recall@1"]},
    )  # fmt: skip


def kalm(*, steps: int, batch: int, pairs: int, hard: int, seed: int) -> Outcome:
    """Focal InfoNCE with mixtures of hard negatives: training from scores, beside the mixtures as vectors."""
    task = CodePairs(max_pairs=pairs)

    def of_batch(as_vectors: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        draws = torch.Generator().manual_seed(seed)

        def loss(query: Tensor, code: Tensor, rows: Tensor) -> Tensor:
            s = (normalize(query, dim=1) @ normalize(code, dim=1).T).detach().fill_diagonal_(-2.0)
            negatives = code[s.topk(hard, 1).indices]  # (B, hard, D) each query's hardest of the batch
            mixing = torch.cat([pair_mixing(len(query), hard, 2, generator=draws), list_mixing(query, negatives)], 1)
            if as_vectors:
                mixed = mixing @ normalize(negatives, dim=2)
                negatives, mixing = torch.cat([normalize(negatives, dim=2), mixed], 1), None  # type: ignore[assignment]
            return focal_info_nce(query, code, row_negatives=negatives, mixing=mixing, temperature=TEMPERATURE)

        return loss

    def plain(query: Tensor, code: Tensor, rows: Tensor) -> Tensor:
        return info_nce(query, code, temperature=TEMPERATURE)

    runs = [
        fit(task, loss, steps=steps, batch=batch, learning_rate=2e-3, seed=seed)
        for loss in (of_batch(False), of_batch(True), plain)
    ]
    return Outcome(
        runs[0].losses[-1], runs[1].losses[-1],
        {"recall@1": runs[0].after["recall@1"], "recall@1, mixtures as vectors": runs[1].after["recall@1"],
         "recall@1, InfoNCE": runs[2].after["recall@1"], "recall@1 before": runs[0].before["recall@1"]},
    )  # fmt: skip


def _entry(code: str) -> str:
    """The name of a function as words."""
    found = re.search(r"def\s+(\w+)", code)
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", found[1] if found else code[:40])
    return words.replace("_", " ").strip().lower()


def _padded(texts: TokenRows, rows: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    """Tokens (n, T) of some texts and their mask, padded on the right."""
    tokens, starts = texts.select(rows)
    ends = torch.cat([starts[1:], torch.tensor([len(tokens)])])
    lengths = ends - starts
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.zeros_like(mask)
    ids[mask.bool()] = tokens
    return ids, mask
