"""Losses over handwritten digits: cMIM, and the mixtures of Metrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from simtile.functional import cmim, info_nce
from simtile.mixing import metrix
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import DigitViews, fit
from simtile.trainers.simclr import SIDE, SimCLR, distorted

TEMPERATURE = 0.2

PROBE, RAW = "probe, 10 labels a digit", "5-NN on pixels, 10 labels a digit"


class FewLabels(DigitViews):
    """Digits of whose metrics only those with few labels are measured: the quick ones."""

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        assert isinstance(objective, SimCLR)
        images = torch.from_numpy(self.pixels).view(-1, 1, SIDE, SIDE)
        with torch.no_grad():
            features = torch.cat([objective.features(part) for part in images.split(1000)]).numpy()
        return {PROBE: self._probe(features, self._few()), RAW: self._neighbours(self.pixels, self._few())}


def cmim_batch_size(*, small: int, large: int, seed: int) -> Outcome:
    """How far a loss moves when the batch grows, everything else being equal: cMIM's mean beside InfoNCE's sum."""
    task = DigitViews(max_images=2 * large)
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(task), generator=draws)[:large]
    views = [
        distorted(task.images[rows], torch.rand(large, 9, generator=draws)).flatten(1).double() for _ in range(2)
    ]  # fmt: skip

    def moved(loss: object) -> tuple[float, float]:
        whole = loss(views[0], views[1], temperature=TEMPERATURE)  # type: ignore[operator]
        parts = zip(views[0].split(small), views[1].split(small), strict=True)
        mean = torch.stack([loss(a, b, temperature=TEMPERATURE) for a, b in parts if len(a) == small]).mean()  # type: ignore[operator]
        return float(whole), float(mean)

    mine, plain = moved(cmim), moved(info_nce)
    return Outcome(
        abs(mine[0] - mine[1]), abs(plain[0] - plain[1]),
        {f"cMIM, batches of {small}": mine[1], f"cMIM, one of {large}": mine[0],
         f"InfoNCE, batches of {small}": plain[1], f"InfoNCE, one of {large}": plain[0]},
    )  # fmt: skip


def cmim_features(*, steps: int, batch: int, images: int, seed: int) -> Outcome:
    """The layer below a projection trained with cMIM's contrastive term, beside raw pixels."""
    task = FewLabels(max_images=images)

    def loss(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        return (cmim(a, b, temperature=TEMPERATURE) + cmim(b, a, temperature=TEMPERATURE)) / 2

    found = fit(task, loss, steps=steps, batch=batch, learning_rate=1e-3, seed=seed)
    return Outcome(found.after[PROBE], found.after[RAW], {"the same untrained": found.before[PROBE]})


def metrix_in_scores(*, images: int, share: float) -> Outcome:
    """Metrix's loss of digits from scores, beside the same loss of mixtures made as vectors; and what each stores."""
    task = DigitViews(max_images=images)
    pixels, labels = torch.from_numpy(task.pixels).double(), torch.from_numpy(task.labels)
    z, N = normalize(pixels, dim=1), len(labels)
    same = labels[:, None] == labels
    other = same & ~torch.eye(N, dtype=torch.bool)
    first = other.double().argmax(1)  # the first positive
    mixture = normalize(share * z[first][:, None] + (1 - share) * z, dim=2)  # (N, N, D)
    apart, mixed = (z[:, None] - z).norm(dim=2), (z[:, None] - mixture).norm(dim=2)
    negative = ~same & other.any(1)[:, None]

    def mean(losses: Tensor) -> Tensor:
        return losses.sum() / (losses > 0).sum().clamp_min(1)

    clean = mean(apart[other]) + mean(relu(0.5 - apart[~same]))
    dense = clean + 0.4 * (mean(share * mixed[negative]) + mean((1 - share) * relu(0.5 - mixed[negative])))
    return Outcome(
        float(metrix(pixels, labels, share=share)), float(dense),
        {"MiB of the mixtures as float32 vectors": mixture.numel() * 4 / 2**20},
    )  # fmt: skip
