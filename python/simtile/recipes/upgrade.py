"""OCA: a new model whose first coordinates an old gallery answers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from simtile.functional import sup_con
from simtile.layers import OrthogonalLayer
from simtile.recipes import Outcome
from simtile.recipes.small_digits import SmallDigits
from simtile.recipes.tasks import fit

if TYPE_CHECKING:
    from torch import distributed as dist

    from simtile.recipes.tasks import PairLoss

FEATURES, WIDTH = 16, 24
"""Columns of the new model's features, and of its vectors after the layer."""


def oca(*, steps: int, batch: int, old_width: int, learning_rate: float, seed: int) -> Outcome:
    """1-NN accuracy of new queries in the old gallery, against that of old queries in it."""

    def loss(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        # "in": near one old vector of its class is enough, where "out" asks a query to be near them all.
        aligned = sup_con(new[:, :old_width], labels, keys=old, key_labels=labels, form="in")
        return sup_con(new, labels) + aligned

    found = fit(Upgrade(old_width), loss, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    table = {**found.after, "new queries, old gallery, untrained": found.before["new queries, old gallery"]}
    return Outcome(found.after["new queries, old gallery"], found.after["old queries, old gallery"], table)


class Upgrade(SmallDigits):
    """An old model, the main axes of the images of five digits, and a new one to be trained on all ten.

    ``loss(new, old, labels)`` of the new model's vectors (batch, WIDTH) and the old one's (batch, old_width).
    """

    name = "upgrade"

    def __init__(self, old_width: int) -> None:
        super().__init__()
        known = self.images[: self.n_train][self.labels[: self.n_train] < 5]
        axes = torch.linalg.svd(known - known.mean(0), full_matrices=False).Vh[:old_width]
        self.old = normalize((self.images - known.mean(0)) @ axes.T, dim=1)

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return NewModel(self.pair_loss)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images, what the old model says of them, labels."""
        return self.images[rows[mine]], self.old[rows[mine]], self.labels[rows[mine]]

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """1-NN accuracies of held-out queries in the gallery of training images."""
        assert isinstance(objective, NewModel)
        with torch.no_grad():
            new = objective.encode(self.images)
        first = new[:, : self.old.shape[1]]  # an old vector is padded with zeros
        sides = {"old queries, old gallery": (self.old, self.old), "new queries, old gallery": (first, self.old)}
        sides["new queries, new gallery"] = (new, new)
        return {name: self.accuracy(query, gallery, 1) for name, (query, gallery) in sides.items()}


class NewModel(nn.Module):
    """A small network, the layer, and a loss."""

    def __init__(self, loss: PairLoss | None) -> None:
        super().__init__()
        self.loss = loss
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, FEATURES))
        self.layer = OrthogonalLayer(FEATURES, WIDTH)

    def encode(self, images: Tensor) -> Tensor:
        """(n, WIDTH) unit rows."""
        found: Tensor = self.layer(normalize(self.encoder(images), dim=1))
        return found

    def forward(self, images: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        assert self.loss is not None, "fit() sets the loss"
        return self.loss(self.encode(images), old, labels)
