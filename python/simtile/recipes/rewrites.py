"""Recipe of LaCLIP: names of characters, rewritten by a rule instead of a language model, and their images.

A rewrite leaves one word of a Unicode name out, as "LATIN LETTER A WITH ACUTE" does of "LATIN SMALL LETTER A WITH
ACUTE"; the two towers are those of ``simtile train clip``. Measured is how well images, of characters in faces that no
training image is in, tell their rewritten name from all others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from simtile.functional import info_nce, multi_positive_info_nce
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import Glyphs, fit
from simtile.search import ExactIndex
from simtile.trainers.clip import TwoTowers

TEMPERATURE = 0.07
NAME, ONE, BOTH = "name", "name or rewrite", "name and rewrite"


class RewrittenNames(Glyphs):
    """The task; ``versions`` says which texts an image has in a step: the first (n, D) rows, or with BOTH (2n, D)."""

    def __init__(self, *, max_characters: int) -> None:
        super().__init__(max_characters=max_characters)
        self.versions = NAME

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        images, words, starts, codes = super().batch(rows, mine, generator)
        draws, chosen = torch.rand(len(words), generator=generator), torch.rand(len(starts), generator=generator) < 0.5
        if self.versions == ONE:
            words, starts = rewritten(words, starts, draws, chosen)
        elif self.versions == BOTH:
            more, places = rewritten(words, starts, draws, torch.ones_like(chosen))
            words, starts = torch.cat([words, more]), torch.cat([starts, places + len(words)])
        return images, words, starts, codes

    @torch.no_grad()
    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """recall@1 and InfoNCE of images in held-out faces among all their characters' names, whole and rewritten."""
        assert isinstance(objective, TwoTowers)
        test = self.tests["held-out faces"]
        codes, own = np.unique(test.codes, return_inverse=True)
        image = torch.cat([objective.image(part) for part in torch.from_numpy(test.images).split(1024)])
        words, starts = self.names.bags(codes.tolist())
        draws = torch.rand(len(words), generator=torch.Generator().manual_seed(0))
        found = {}
        for name, chosen in (("names", False), ("rewritten names", True)):
            text = objective.text(*rewritten(words, starts, draws, torch.full((len(starts),), chosen)))
            _, ids = ExactIndex(text.numpy(), metric="cosine").search(image.numpy(), 1)
            found[f"recall@1 by {name}"] = float((ids[:, 0] == own).mean())
            found[f"InfoNCE by {name}"] = float(
                info_nce(image, text, targets=torch.from_numpy(own), temperature=TEMPERATURE)
            )
        return found


def rewritten(words: Tensor, starts: Tensor, draws: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Bags of words, the chosen ones without the word of their lowest draw; a bag of one word stays."""
    lengths = torch.cat([starts, torch.tensor([len(words)])]).diff()
    bag = torch.arange(len(starts)).repeat_interleave(lengths)
    lowest = torch.full((len(starts),), torch.inf).scatter_reduce(0, bag, draws, "amin")
    kept = (draws > lowest[bag]) | ~(chosen & (lengths > 1))[bag]
    return words[kept], torch.searchsorted(bag[kept], torch.arange(len(starts)))


def laclip(*, max_characters: int, steps: int, batch: int, learning_rate: float, seed: int) -> Outcome:
    """A random version of each name a step, beside the name alone; and LaCLIP-MT, both versions in every step."""

    def one_text(image: Tensor, text: Tensor, ids: Tensor) -> Tensor:
        return info_nce(image, text, temperature=TEMPERATURE, symmetric=True, query_ids=ids, key_ids=ids)

    def several_texts(image: Tensor, text: Tensor, ids: Tensor) -> Tensor:
        texts = text.view(2, *image.shape).transpose(0, 1)
        return multi_positive_info_nce(image, texts, ids=ids, temperature=TEMPERATURE, symmetric=True)

    task = RewrittenNames(max_characters=max_characters)
    rows = {}
    for versions, loss in ((ONE, one_text), (NAME, one_text), (BOTH, several_texts)):
        task.versions = versions
        fitted = fit(task, loss, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
        rows[versions] = fitted.after
    table = {f"{which}, trained on {name}": value for name, row in rows.items() for which, value in row.items()}
    return Outcome(rows[ONE]["InfoNCE by rewritten names"], rows[NAME]["InfoNCE by rewritten names"], table)
