"""CLIP in small: images of characters and their Unicode names in one space.

About 54,000 images of 7,300 characters in 16 faces. A convolutional tower maps an image; a bag of words with a layer on
top maps a name. The loss is two-sided InfoNCE or SigLIP's, its scale learnt. Images of one character in a batch have
one name: they are no negatives of each other (InfoNCE), or positives (SigLIP).

Measured is recall@1: the name of an image among the names of all characters of the same test set.

    held-out characters   a tenth of the characters, in the training faces: most words of their names are known
    held-out faces        characters of the training set, in two faces that are not in it
    both                  held-out characters in held-out faces

Margin, fixed before the first run: recall@1 on held-out characters at least 10 times chance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from simtile.functional import info_nce, sigmoid_loss
from simtile.search import ExactIndex
from simtile.trainers import dense, glyphs

if TYPE_CHECKING:
    from torch import distributed as dist

    from simtile.trainers.glyphs import Glyphs

WIDTH = 128
"""Of the common space."""

MAX_SCALE = 100.0


class GlyphsAndNames:
    """The task: see the module."""

    def __init__(self, *, loss: str = "info_nce", max_characters: int | None = None) -> None:
        self.name, self.loss = "clip", loss
        every = glyphs.render(max_characters)
        new_character = glyphs.held_out(every.codes)
        new_face = np.isin(every.faces, [glyphs.FACES.index(face) for face in glyphs.HELD_OUT_FACES])
        self.training = every.where(~new_character & ~new_face)
        self.tests = {
            "held-out characters": every.where(new_character & ~new_face),
            "held-out faces": every.where(~new_character & new_face),
            "both": every.where(new_character & new_face),
        }
        self.names = Names(self.training.codes, every.codes)
        self.images = torch.from_numpy(self.training.images)
        self.codes = torch.from_numpy(self.training.codes)

    def __len__(self) -> int:
        return len(self.training.codes)

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return TwoTowers(len(self.names.words), self.loss, group, dense)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images, their names as words, and whose they are."""
        rows = rows[mine]
        codes = self.codes[rows]
        return self.images[rows], *self.names.bags(codes.tolist()), codes

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """recall@1 of each test set, and what guessing gets."""
        assert isinstance(objective, TwoTowers)
        found: dict[str, float] = {}
        for name, test in self.tests.items():
            codes = np.unique(test.codes)
            with torch.no_grad():
                text = objective.text(*self.names.bags(codes.tolist()))
                image = torch.cat([objective.image(part) for part in torch.from_numpy(test.images).split(1024)])
            _, ids = ExactIndex(text.numpy(), metric="cosine").search(image.numpy(), 1)
            found[f"recall@1, {name}"] = float((codes[ids[:, 0]] == test.codes).mean())
            found[f"chance, {name}"] = 1 / len(codes)
        return found

    def facts(self) -> dict[str, Any]:
        return {
            "training images": len(self), "training characters": len(np.unique(self.training.codes)),
            "words in names": len(self.names.words), "loss": self.loss,
            **{f"test images, {name}": len(test.codes) for name, test in self.tests.items()},
        }  # fmt: skip


class Names:
    """Names as bags of words; 0 stands for words that no training name has."""

    def __init__(self, training: Glyphs | np.ndarray[Any, Any], every: np.ndarray[Any, Any]) -> None:
        words = sorted({word for code in np.unique(training).tolist() for word in _words(code)})
        self.words = {word: place for place, word in enumerate(words, 1)}
        self._bags = {
            code: [self.words.get(word, 0) for word in _words(code)] for code in np.unique(every).tolist()
        }  # fmt: skip

    def bags(self, codes: list[int]) -> tuple[Tensor, Tensor]:
        """Words of all names one after the other, and where each name begins: what ``nn.EmbeddingBag`` takes."""
        found = [self._bags[code] for code in codes]
        starts = np.cumsum([0, *map(len, found)])[:-1]
        return torch.tensor([word for bag in found for word in bag], dtype=torch.int64), torch.from_numpy(starts)


def _words(code: int) -> list[str]:
    return glyphs.name_of(code).replace("-", " ").split()


class TwoTowers(nn.Module):
    """Both towers, the learnt scale, and the loss as what ``forward`` returns."""

    def __init__(self, words: int, loss: str, group: dist.ProcessGroup | None, dense: bool) -> None:
        super().__init__()
        self.loss, self.group, self.dense = loss, group, dense
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.GELU(),
            nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.GELU(),
            nn.Conv2d(64, 128, 3, 2, 1), nn.GroupNorm(8, 128), nn.GELU(),
            nn.Flatten(), nn.Linear(128 * (glyphs.SIZE // 8) ** 2, WIDTH),
        )  # fmt: skip
        self.words = nn.EmbeddingBag(words + 1, WIDTH, mode="sum")
        nn.init.normal_(self.words.weight, std=0.5)
        self.over_words = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, WIDTH))
        # CLIP's and SigLIP's own starting points
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0 if loss == "siglip" else 1 / 0.07)))
        self.bias = nn.Parameter(torch.tensor(-10.0)) if loss == "siglip" else None

    def image(self, images: Tensor) -> Tensor:
        """(n, SIZE, SIZE) bytes to (n, WIDTH)."""
        found: Tensor = self.convolutions(images[:, None].float() / 255)
        return found

    def text(self, words: Tensor, starts: Tensor) -> Tensor:
        """Bags of words to (n, WIDTH)."""
        bag = self.words(words, starts)
        found: Tensor = bag + self.over_words(bag)
        return found

    def forward(self, images: Tensor, words: Tensor, starts: Tensor, ids: Tensor) -> Tensor:
        image, text = self.image(images), self.text(words, starts)
        scale = self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()
        if self.bias is None:
            if self.dense:
                return dense.info_nce(image, text, ids, 1 / scale)
            return info_nce(
                image, text, temperature=1 / scale, symmetric=True, query_ids=ids, key_ids=ids,
                process_group=self.group,
            )  # fmt: skip
        if self.dense:
            return dense.sigmoid_loss(image, text, ids, scale, self.bias)
        return sigmoid_loss(
            image, text, scale=scale, bias=self.bias, query_ids=ids, key_ids=ids, process_group=self.group
        )  # fmt: skip
