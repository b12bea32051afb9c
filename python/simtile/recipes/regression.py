"""Contrastive learning for a number instead of a class: how far a digit is turned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from simtile.functional import sup_con
from simtile.mixing import supremix as supremix_loss
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import DigitViews, TwoViews, fit
from simtile.trainers.simclr import SIDE

if TYPE_CHECKING:
    from torch.nn import Module

STEP = 5.0
"""Degrees of a label: what SupCon takes for one class."""

STEPS = 24
"""Labels 0 to 23: from -60 to 55 degrees."""


class TurnedDigits(DigitViews):
    """Digits turned by a multiple of `STEP` degrees; ``loss(a, b, labels)``, two noisy views of a turned digit."""

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        labels = torch.randint(STEPS, (len(rows),), generator=generator)[mine]
        images = turned(self.images[rows[mine]], labels)
        noise = [0.1 * torch.randn(images.shape, generator=generator) for _ in range(2)]
        return images + noise[0], images + noise[1], labels.float()

    def evaluate(self, objective: Module) -> dict[str, float]:
        """Mean absolute error in degrees of a ridge regression on the features, for test digits."""
        assert isinstance(objective, TwoViews)
        images = torch.from_numpy(self.pixels).view(-1, 1, SIDE, SIDE)
        labels = torch.randint(STEPS, (len(images),), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            x = torch.cat([objective.features(part) for part in turned(images, labels).split(1000)]).double()
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
        y, n = labels.double(), self.n_train
        gram = x[:n].T @ x[:n] + 1e-2 * n * torch.eye(x.shape[1])
        guess = x[n:] @ torch.linalg.solve(gram, x[:n].T @ (y[:n] - y[:n].mean())) + y[:n].mean()
        return {"error": float((guess - y[n:]).abs().mean()) * STEP}


def turned(images: Tensor, labels: Tensor) -> Tensor:
    """Images (n, 1, SIDE, SIDE) turned by their labels."""
    angle = torch.deg2rad(STEP * (labels - STEPS / 2))
    zero = torch.zeros_like(angle)
    rows = [torch.stack(row, 1) for row in ((angle.cos(), -angle.sin(), zero), (angle.sin(), angle.cos(), zero))]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def supremix(*, steps: int, batch: int, images: int, window: float, seed: int) -> Outcome:
    """SupReMix beside SupCon on the same labels, same encoder, seed and batches."""
    task = TurnedDigits(max_images=images)
    draws = torch.Generator().manual_seed(seed)

    def mixed(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        return supremix_loss(torch.cat([a, b]), labels.repeat(2), window=window, temperature=0.1, generator=draws)

    def plain(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        return sup_con(torch.cat([a, b]), labels.long().repeat(2), temperature=0.1)

    mine, other = (
        fit(task, loss, steps=steps, batch=batch, learning_rate=1e-3, seed=seed) for loss in (mixed, plain)
    )  # fmt: skip
    return Outcome(mine.after["error"], other.after["error"], {"the same untrained": mine.before["error"]})
