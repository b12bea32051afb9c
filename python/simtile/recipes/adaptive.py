"""Temperatures, margins and weights that adapt to the pair: AMCL, deep boosting learning, PEG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from simtile.adaptive import deep_boosting, max_violation, progressive_info_nce
from simtile.demo.loss_cost import PeakMemory
from simtile.functional import nt_xent
from simtile.losses import AMCLLoss
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import CodePairs, fit
from simtile.recipes.views import PROBE, RAW, FewLabels

if TYPE_CHECKING:
    from simtile.demo.model import TokenRows
    from simtile.recipes.tasks import Fitted

HEADS = 4


def amcl(*, steps: int, batch: int, images: int, seed: int) -> Outcome:
    """SimCLR's projection cut into heads with learnt pair temperatures, beside one head with a fixed one."""
    task = FewLabels(max_images=images)
    torch.manual_seed(seed)
    criterion = AMCLLoss(64 // HEADS, temperatures=(0.1, 2.0))

    def heads(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = criterion(a.view(len(a), HEADS, -1), b.view(len(b), HEADS, -1))
        return loss

    def one(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        return nt_xent(a, b, temperature=0.2)

    run = {"steps": steps, "batch": batch, "learning_rate": 1e-3, "seed": seed}
    mine, plain = fit(task, heads, **run), fit(task, one, **run)  # type: ignore[arg-type]
    return Outcome(
        mine.after[PROBE], mine.after[RAW],
        {"the same with NT-Xent": plain.after[PROBE], "the same untrained": mine.before[PROBE]},
    )  # fmt: skip


def dbl(*, steps: int, batch: int, pairs: int, seed: int) -> Outcome:
    """A target branch's loss over its anchor for unseen pairs, by search, beside the same from stored scores."""
    task = CodePairs(max_pairs=pairs)
    run = {"steps": steps, "batch": batch, "learning_rate": 2e-3, "seed": seed}

    def plain(query: Tensor, code: Tensor, rows: Tensor) -> Tensor:
        return max_violation(query, code)

    anchor = fit(task, plain, **run)  # type: ignore[arg-type]
    queries, codes = _encoded(anchor, task.train_query, task.train_code)

    def boosted(query: Tensor, code: Tensor, rows: Tensor) -> Tensor:
        margins = deep_boosting(query, code, queries[rows], codes[rows], kind="relative")
        return max_violation(query, code) + margins

    target = fit(task, boosted, **run)  # type: ignore[arg-type]
    mine, frozen = (_encoded(branch, task.test_query, task.test_code) for branch in (target, anchor))
    s, a = (normalize(query, dim=1) @ normalize(code, dim=1).T for query, code in (mine, frozen))
    gain = 0.2 + (a.diagonal() - s.diagonal()) + (s - a).fill_diagonal_(-torch.inf).amax(1)
    back = 0.2 + (a.diagonal() - s.diagonal()) + (s - a).fill_diagonal_(-torch.inf).amax(0)
    return Outcome(
        float(deep_boosting(*mine, *frozen, kind="relative")), float((relu(gain) + relu(back)).mean()),
        {"recall@1": target.after["recall@1"], "recall@1, anchor": anchor.after["recall@1"],
         "recall@1 before": anchor.before["recall@1"]},
    )  # fmt: skip


def _encoded(branch: Fitted, *sides: TokenRows) -> list[Tensor]:
    encoder: Any = branch.objective.encoder
    return [torch.from_numpy(encoder.encode(side)) for side in sides]


def peg(*, batch: int, width: int, hard: int, seed: int) -> Outcome:
    """Extra peak memory of one step over a very large batch, beside the logits that it does not store."""
    draws = torch.Generator().manual_seed(seed)
    query = normalize(torch.randn(batch, width, generator=draws), dim=1)
    key = normalize(query + 0.5 * torch.randn(batch, width, generator=draws) / width**0.5, dim=1)
    negatives = torch.randn(batch, hard, width, generator=draws)

    def step(rows: int) -> Tensor:
        inputs = [part[:rows].clone().requires_grad_() for part in (query, key, negatives)]
        loss = progressive_info_nce(*inputs[:2], progress=0.25, row_negatives=inputs[2], temperature=0.05)
        loss.backward()
        return loss.detach()

    step(min(batch, 512))  # loads what is loaded once
    peak = PeakMemory()
    loss = step(batch)
    grown = peak.growth_mb()
    return Outcome(
        float("nan") if grown is None else grown, batch * batch * 4 / 2**20,
        {"loss": float(loss), "MiB of queries, keys and hard negatives": (hard + 2) * batch * width * 4 / 2**20},
    )  # fmt: skip
