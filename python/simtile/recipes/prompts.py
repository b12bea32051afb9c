"""Recipes of losses of given scores: handwritten digits, and prompts that are their ten names.

scikit-learn's 8 × 8 digits, 1,300 to learn from and 497 to measure on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from simtile.functional import score_info_nce
from simtile.losses import SoftREPALoss
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import distributed as dist

DIGITS, TRAINED = 10, 1_300
NOISE = 0.5
"""Standard deviation of the noise that is to be removed, of pixels from 0 to 1."""


class SmallDigits:
    """The task; a model gives ``loss(images, labels, noise)`` and ``scores(images, noise)``, (n, 10), higher better."""

    name = "small digits"

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.pair_loss: Any = None
        self.make = make
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.images = torch.from_numpy(images)[order].float() / 16
        self.labels = torch.from_numpy(labels)[order].long()
        self.test_noise = torch.randn(len(order) - TRAINED, 64, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return TRAINED

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return self.make()

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        rows = rows[mine]
        return self.images[rows], self.labels[rows], torch.randn(len(rows), 64, generator=generator)

    @torch.no_grad()
    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """The share of unseen digits whose own prompt has the best score."""
        scores: Tensor = objective.scores(self.images[TRAINED:], self.test_noise)  # type: ignore[operator]
        return {"accuracy": float((scores.argmax(1) == self.labels[TRAINED:]).float().mean())}

    def facts(self) -> dict[str, Any]:
        return {"training images": TRAINED, "test images": len(self.test_noise)}


class Denoiser(nn.Module):
    """Predicts a digit from a noisy one and its prompt: the frozen text-to-image model of SoftREPA, in small."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = nn.Embedding(DIGITS, 16)
        self.layers = nn.Sequential(
            nn.Linear(64 + 16, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 64)
        )

    def errors(self, images: Tensor, noise: Tensor, prompts: Tensor) -> Tensor:
        """(n, prompts) mean squared errors of each image under every prompt, the same noise for all."""
        shape = (len(images), len(prompts), -1)
        noisy = (images + NOISE * noise)[:, None].expand(shape)
        predicted: Tensor = self.layers(torch.cat([noisy, prompts[None].expand(shape)], 2))
        return (predicted - images[:, None]).square().mean(2)

    def scores(self, images: Tensor, noise: Tensor) -> Tensor:
        return -self.errors(images, noise, self.prompts.weight)

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """The denoising loss, under the right prompt alone."""
        loss: Tensor = self.errors(images, noise, self.prompts.weight).gather(1, labels[:, None]).mean()
        return loss


class SoftTokens(nn.Module):
    """What is added to the prompts of a frozen denoiser, learnt by contrast."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser.requires_grad_(False)
        self.tokens = nn.Parameter(torch.zeros_like(denoiser.prompts.weight))
        self.loss = SoftREPALoss()

    def errors(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.denoiser.errors(images, noise, self.denoiser.prompts.weight + self.tokens)

    def scores(self, images: Tensor, noise: Tensor) -> Tensor:
        return -self.errors(images, noise)

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.errors(images, noise), targets=labels)
        return loss


def softrepa(
    *, steps: int, token_steps: int, batch: int, learning_rate: float, token_learning_rate: float, seed: int
) -> Outcome:  # fmt: skip
    """A frozen denoiser whose prompts get soft tokens, beside itself."""
    plain = fit(SmallDigits(Denoiser), _none, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    denoiser = plain.objective
    assert isinstance(denoiser, Denoiser)
    mine = fit(
        SmallDigits(lambda: SoftTokens(denoiser)), _none, steps=token_steps, batch=batch,
        learning_rate=token_learning_rate, seed=seed,
    )  # fmt: skip
    learnt = sum(p.numel() for p in mine.objective.parameters() if p.requires_grad)
    return Outcome(mine.after["accuracy"], plain.after["accuracy"], {"learnt parameters": float(learnt)})


class Prompted(nn.Module):
    """Class prompts against images of 16 patches; class-aware ones have first looked at the patches."""

    def __init__(self, aware: bool, width: int = 32) -> None:
        super().__init__()
        self.aware = aware
        self.patches, self.places = nn.Linear(4, width), nn.Parameter(0.3 * torch.randn(16, width))
        self.prompts = nn.Parameter(torch.randn(DIGITS, width))
        self.look = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.look.weight)

    def scores(self, images: Tensor, noise: Tensor) -> Tensor:
        """(n, 10) <image b, prompt k>, where a class-aware prompt depends on b too."""
        patches = images.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        tokens = self.patches(patches) * self.places
        image = normalize(tokens.mean(1), dim=1)
        if not self.aware:
            return image @ normalize(self.prompts, dim=1).T
        attention = torch.softmax(self.prompts @ tokens.transpose(1, 2), 2)  # (n, 10, 16)
        prompts = normalize(self.prompts + self.look(attention @ tokens), dim=2)
        return (prompts * image[:, None]).sum(2)

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        return score_info_nce(self.scores(images, noise), targets=labels, temperature=0.07)


def tom3l(*, steps: int, batch: int, learning_rate: float, seed: int) -> Outcome:
    """The loss of class-aware prompts, whose scores are no inner products of two fixed sets, beside torch's own."""
    aware, fixed = (
        fit(SmallDigits(functools.partial(Prompted, kind)), _none, steps=steps, batch=batch,
            learning_rate=learning_rate, seed=seed)
        for kind in (True, False)
    )  # fmt: skip
    assert isinstance(aware.objective, Prompted)
    task = SmallDigits(functools.partial(Prompted, True))
    with torch.no_grad():
        scores = aware.objective.scores(task.images[TRAINED:], task.test_noise)
    labels = task.labels[TRAINED:]
    table = {
        "accuracy, class-aware prompts": aware.after["accuracy"],
        "accuracy, fixed prompts": fixed.after["accuracy"],
    }
    return Outcome(
        float(score_info_nce(scores, targets=labels, temperature=0.07)),
        float(cross_entropy(scores / 0.07, labels)),
        table,
    )


def _none(*inputs: Tensor) -> Tensor:
    """The models have losses of their own."""
    raise AssertionError(inputs)
