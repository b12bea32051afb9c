"""scikit-learn's 1,797 handwritten digits of 8 by 8 pixels: a task that trains in a second or two.

Two thirds are trained on, the rest is held out. A view is shifted by up to a pixel, its strokes are stronger or weaker,
and it is noisy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from simtile.functional import in_batch_accuracy
from simtile.search import ExactIndex

if TYPE_CHECKING:
    from torch import distributed as dist

    from simtile.recipes.tasks import PairLoss

SIDE, CLASSES, FEATURES, WIDTH = 8, 10, 64, 32
SHIFT, STRONGER, NOISE = 0.25, 0.3, 0.1  # of half the width, of the strokes, in units of black


class SmallDigits:
    """Two views of a digit: ``loss(a, b, labels)`` of their projections (batch, WIDTH)."""

    name = "small digits"

    def __init__(self) -> None:
        self.pair_loss: PairLoss | None = None
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        self.images = torch.from_numpy(data.data[order].astype(np.float32) / 16)
        self.labels = torch.from_numpy(data.target[order])
        self.n_train = len(order) * 2 // 3
        self.held_out_images, self.held_out_labels = self.images[self.n_train :], self.labels[self.n_train :]

    def __len__(self) -> int:
        return self.n_train

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return Encoder(self.pair_loss)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Two views of each image, and its label."""
        images = self.images[rows]
        views = [distorted(images, generator)[mine] for _ in range(2)]
        return *views, self.labels[rows[mine]]

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """5-NN accuracy, and recall@1 of a held-out image's other view among all, by features."""
        assert isinstance(objective, Encoder)
        generator = torch.Generator().manual_seed(0)
        objective.eval()
        with torch.no_grad():
            views = [objective.features(distorted(self.held_out_images, generator)) for _ in range(2)]
            found = objective.features(self.images)
        objective.train()
        return {"5-NN": self.accuracy(found, found, 5), "other view": float(in_batch_accuracy(*views))}

    def facts(self) -> dict[str, Any]:
        return {"training images": self.n_train, "held out": len(self.labels) - self.n_train}

    def accuracy(self, query: Tensor, gallery: Tensor, neighbours: int) -> float:
        """Of the label most frequent among a held-out query's neighbours in the training images, by cosine."""
        index = ExactIndex(gallery[: self.n_train].numpy(), metric="cosine")
        _, ids = index.search(query[self.n_train :].numpy(), neighbours)
        votes = F.one_hot(self.labels[torch.from_numpy(ids)], CLASSES).sum(1)
        return float((votes.argmax(1) == self.held_out_labels).float().mean())


class Encoder(nn.Module):
    """Features, a projection, and a loss."""

    def __init__(self, loss: PairLoss | None) -> None:
        super().__init__()
        self.loss = loss
        self.features = nn.Sequential(
            nn.Linear(SIDE * SIDE, 128), nn.BatchNorm1d(128), nn.GELU(), nn.Linear(128, FEATURES)
        )
        self.projection = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.GELU(), nn.Linear(FEATURES, WIDTH))

    def forward(self, view_a: Tensor, view_b: Tensor, labels: Tensor) -> Tensor:
        assert self.loss is not None, "fit() sets the loss"
        a, b = self.projection(self.features(torch.cat([view_a, view_b]))).chunk(2)
        return self.loss(a, b, labels)


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 64) another view of each image."""
    n = len(images)
    shift = SHIFT * (2 * torch.rand(n, 2, generator=generator) - 1)
    maps = torch.cat([torch.eye(2).expand(n, 2, 2), shift[:, :, None]], 2)
    grid = F.affine_grid(maps, [n, 1, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(images.view(n, 1, SIDE, SIDE), grid, align_corners=False).view(n, -1)
    strokes = 1 + STRONGER * (2 * torch.rand(n, 1, generator=generator) - 1)
    return moved * strokes + NOISE * torch.randn(n, SIDE * SIDE, generator=generator)
