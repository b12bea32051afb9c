"""Distillation over a vocabulary, whose logits are scores of hidden states against word vectors and need not exist."""

from __future__ import annotations

import torch

from simtile import targets
from simtile.functional import distillation_loss, pair_lse
from simtile.recipes.claim import Outcome
from simtile.recipes.code_vectors import code_vectors, encoder


def xrag(*, max_pairs: int, states: int, scale: float) -> Outcome:
    """KL(teacher || student) of next-word distributions, streamed over the vocabulary and from stored logits."""
    pairs = code_vectors(max_pairs)
    words = encoder().words.weight.detach()
    student, teacher = (scale * torch.from_numpy(part[:states]) for part in (pairs.query, pairs.code))
    cross = distillation_loss(
        student, words, teacher, words, temperature=1.0, symmetric=False, normalize=False, plan="recompute"
    )
    lse, _ = pair_lse(teacher, words)
    assert lse is not None
    entropy = (lse - targets.teacher(teacher, words, teacher, words).score).mean()
    log_q, log_p = (torch.log_softmax(part.double() @ words.double().T, dim=1) for part in (student, teacher))
    exact = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    table = {"words": float(len(words)), "stored logits, MiB": 2 * states * len(words) * 4 / 2**20}
    return Outcome(float(cross - entropy), float(exact), table)
