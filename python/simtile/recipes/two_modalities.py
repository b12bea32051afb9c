"""Images of characters and their names: closing the modality gap, noisy pairs with smoothed labels, soft positives."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from simtile.demo.model import MiniLMTokenizer, StaticEncoder, minilm_word_table
from simtile.functional import contrastive_gap_loss, cwcl, info_nce
from simtile.losses import InfoNCELoss
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import Glyphs, fit
from simtile.trainers.glyphs import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from simtile.trainers.clip import TwoTowers

RECALL = "recall@1, held-out characters"
LEARNING_RATE = 2e-3
TEMPERATURE = 0.07
SHARP = 0.02
"""A temperature that leaves a gap: at 0.07 these small towers close it by themselves."""


def contrastive_gap(*, steps: int, batch: int, characters: int, seed: int) -> Outcome:
    """The distance of the two modalities' means after training with alignment and uniformity, beside CLIP's loss."""
    task = Glyphs(max_characters=characters)

    def closed(image: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        return contrastive_gap_loss(image, text, temperature=SHARP, cross_uniform=0.0)

    def clip(image: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        return info_nce(image, text, temperature=SHARP, symmetric=True)

    runs = [
        fit(task, loss, steps=steps, batch=batch, learning_rate=LEARNING_RATE, seed=seed) for loss in (closed, clip)
    ]  # fmt: skip
    gaps = []
    for run in runs:
        image, text, _ = _held_out(task, cast("TwoTowers", run.objective))
        gaps.append(float((image.mean(0) - text.mean(0)).norm()))
    return Outcome(gaps[0], gaps[1], {RECALL: runs[0].after[RECALL], f"{RECALL}, CLIP": runs[1].after[RECALL]})


def align(*, steps: int, batch: int, characters: int, noise: float, seed: int) -> Outcome:
    """ALIGN's loss on noisy pairs, learnt temperature and smoothed labels, beside the same from stored logits."""
    task = Glyphs(max_characters=characters)
    criterion = InfoNCELoss(0.07, learn_temperature=True, symmetric=True, label_smoothing=0.1)
    stored = InfoNCELoss(0.07, learn_temperature=True)  # for its temperature

    def noisy(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        draws = torch.Generator().manual_seed(seed)

        def of_batch(image: Tensor, text: Tensor, codes: Tensor) -> Tensor:
            """A share ``noise`` of the texts goes to the next image of those that lose theirs."""
            wrong = torch.nonzero(torch.rand(len(text), generator=draws) < noise).squeeze(1)
            return loss(image, text.index_copy(0, wrong, text[wrong.roll(1)]))

        return of_batch

    def dense(image: Tensor, text: Tensor) -> Tensor:
        s = normalize(image, dim=1) @ normalize(text, dim=1).T / stored.current_temperature()
        own = torch.arange(len(s))
        return (cross_entropy(s, own, label_smoothing=0.1) + cross_entropy(s.T, own, label_smoothing=0.1)) / 2

    run = {"steps": steps, "batch": batch, "learning_rate": LEARNING_RATE, "seed": seed}
    mine = fit(task, noisy(criterion), **run)  # type: ignore[arg-type]
    other = fit(task, noisy(dense), **run)  # type: ignore[arg-type]
    return Outcome(
        mine.after[RECALL], other.after[RECALL],
        {"chance": mine.after["chance, held-out characters"], "last loss": mine.losses[-1],
         "last loss, stored logits": other.losses[-1]},
    )  # fmt: skip


def soft_positives(*, steps: int, batch: int, characters: int, seed: int) -> Outcome:
    """CWCL under weights that factorise, beside the same training with the weights of all pairs as a matrix."""
    task = Glyphs(max_characters=characters)
    frozen, place = _frozen_names(task)

    def features(codes: Tensor) -> Tensor:
        return frozen[torch.tensor([place[code] for code in codes.tolist()])]

    def factorised(image: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        return cwcl(image, text, features(codes), temperature=TEMPERATURE)

    def stored(image: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        s = normalize(image, dim=1) @ normalize(text, dim=1).T / TEMPERATURE
        weights = (1 + features(codes) @ features(codes).T) / 2
        row = torch.logsumexp(s, 1) - (weights * s).sum(1) / weights.sum(1)
        return (row.mean() + cross_entropy(s.T, torch.arange(len(s)))) / 2

    run = {"steps": steps, "batch": batch, "learning_rate": LEARNING_RATE, "seed": seed}
    mine, other = (fit(task, loss, **run) for loss in (factorised, stored))  # type: ignore[arg-type]
    return Outcome(
        mine.losses[-1], other.losses[-1],
        {RECALL: mine.after[RECALL], f"{RECALL}, stored weights": other.after[RECALL],
         "chance": mine.after["chance, held-out characters"]},
    )  # fmt: skip


@torch.no_grad()
def _held_out(task: Glyphs, model: TwoTowers) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embeddings of the held-out characters' images and names, and the place of each image's name."""
    test = task.tests["held-out characters"]
    codes, owner = np.unique(test.codes, return_inverse=True)
    text = model.text(*task.names.bags(codes.tolist()))
    image = torch.cat([model.image(part) for part in torch.from_numpy(test.images).split(1024)])
    return normalize(image, dim=1), normalize(text, dim=1), torch.from_numpy(owner)


def _frozen_names(task: Glyphs) -> tuple[Tensor, dict[int, int]]:
    """Unit embeddings of all characters' names in MiniLM's word table, without their common direction; their places."""
    codes = sorted({code for part in (task.training, *task.tests.values()) for code in part.codes.tolist()})
    rows = MiniLMTokenizer()([name_of(code).lower() for code in codes])
    vectors = torch.from_numpy(StaticEncoder(minilm_word_table()).encode(rows))
    return normalize(vectors - vectors.mean(0), dim=1), {code: place for place, code in enumerate(codes)}
