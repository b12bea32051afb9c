"""Recipe of MCLRec: learnt augmentations of SimCLR's projections of digits, and a regulariser in tiles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from simtile.functional import margin_regularizer, meta_contrast, nt_xent
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import DigitViews, fit
from simtile.trainers.simclr import SIDE, SimCLR

TEMPERATURE = 0.2


class WithAugmenters(nn.Module):
    """NT-Xent of two views, and a share of MCLRec's contrast with a learnt augmentation of each."""

    def __init__(self, share: float, width: int) -> None:
        super().__init__()
        self.share = share
        self.augment_a, self.augment_b = (
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(2)
        )

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        a, b = normalize(a, dim=1), normalize(b, dim=1)
        meta = [normalize(part, dim=1) for part in (self.augment_a(a), self.augment_b(b))]
        loss = nt_xent(a, b, temperature=TEMPERATURE)
        return loss + self.share * meta_contrast(a, b, *meta, temperature=TEMPERATURE)


class Digits(DigitViews):
    """Measured by neighbours alone, without the probes."""

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        assert isinstance(objective, SimCLR)
        with torch.no_grad():
            images = torch.from_numpy(self.pixels).view(-1, 1, SIDE, SIDE)
            features = torch.cat([objective.features(part) for part in images.split(1000)]).numpy()
        return {"5-NN": self._neighbours(features, np.arange(self.n_train))}


def plain(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    """NT-Xent alone."""
    return nt_xent(a, b, temperature=TEMPERATURE)


def dense_regularizer(a: Tensor, b: Tensor) -> Tensor:
    """The regulariser as the authors write it, from the matrix of all scores."""
    B = len(a)
    z = torch.cat([a, b])
    scores = z @ z.T / TEMPERATURE
    partner = torch.arange(2 * B).roll(B)
    negative = ~torch.eye(2 * B, dtype=torch.bool)
    negative[torch.arange(2 * B), partner] = False
    positive, negatives = scores[torch.arange(2 * B), partner], scores[negative].view(2 * B, -1)
    highest = negatives.amax(1)
    low, high = torch.minimum(positive, highest), torch.maximum(positive, highest)
    return (positive - low).clamp_min(0).mean() + (high[:, None] - negatives).clamp_min(0).mean()


def mclrec(
    *, images: int, steps: int, batch: int, learning_rate: float, share: float, width: int, seed: int
) -> Outcome:
    """The regulariser of trained projections in tiles, beside its dense form."""
    task = Digits(max_images=images)
    torch.manual_seed(seed)
    mine, alone = (
        fit(task, loss, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
        for loss in (WithAugmenters(share, width), plain)
    )
    assert isinstance(mine.objective, SimCLR)
    every = torch.arange(len(task))
    a, b, _ = task.batch(every, slice(None), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        views = [normalize(part, dim=1) for part in mine.objective.projections(a, b)]
        found, want = margin_regularizer(*views, temperature=TEMPERATURE), dense_regularizer(*views)
    table = {f"{name}, {which}": value for which, row in (("with augmenters", mine), ("NT-Xent alone", alone))
             for name, value in row.after.items()}  # fmt: skip
    return Outcome(float(found), float(want), table)
