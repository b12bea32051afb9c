"""Images of characters in matplotlib's own fonts, and their Unicode names."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import ImageFont

SIZE = 24
"""Pixels of an image's side."""

FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip

HELD_OUT_FACES = ("DejaVuSansMono-BoldOblique", "DejaVuSerif-Italic")
HELD_OUT_TENTH = 0
"""Characters whose code, hashed, has this remainder by 10 are never trained on: a tenth, the same in every face."""


class Glyphs(NamedTuple):
    """One image a row; ``codes`` say whose."""

    images: NDArray[np.uint8]  # (n, SIZE, SIZE)
    codes: NDArray[np.int64]  # (n,) code points
    faces: NDArray[np.int64]  # (n,) places in FACES

    def where(self, rows: NDArray[np.bool_]) -> Glyphs:
        return Glyphs(self.images[rows], self.codes[rows], self.faces[rows])


def name_of(code: int) -> str:
    """The Unicode name, of a character that has one."""
    return unicodedata.name(chr(code))


def held_out(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which characters are for testing. By hash: neither depends on what other characters a font has."""
    tenths = {
        code: hashlib.blake2b(str(code).encode(), digest_size=4).digest()[0] % 10 for code in np.unique(codes).tolist()
    }
    return np.array([tenths[code] == HELD_OUT_TENTH for code in codes.tolist()], dtype=bool)


def render(max_characters: int | None = None) -> Glyphs:
    """Every named character of every face, about 54,000 images; those that a face draws as nothing are left out.

    ``max_characters`` takes so many characters, drawn once for all, for a trial.
    """
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    named = {face: _named_codes(folder / f"{face}.ttf") for face in FACES}
    if max_characters is not None:
        everything = np.unique(np.concatenate(list(named.values())))
        chosen = np.random.default_rng(0).permutation(everything)[:max_characters]
        named = {face: codes[np.isin(codes, chosen)] for face, codes in named.items()}
    images, codes, faces = [], [], []
    for place, (face, mine) in enumerate(named.items()):
        # One character needs no shaping, and raqm, Pillow's other layout, refuses some that stand alone.
        font = ImageFont.truetype(str(folder / f"{face}.ttf"), SIZE - 5, layout_engine=ImageFont.Layout.BASIC)
        for code in mine.tolist():
            image = _draw(font, chr(code))
            if image is not None:
                images.append(image)
                codes.append(code)
                faces.append(place)
    return Glyphs(np.stack(images), np.array(codes), np.array(faces))


def _named_codes(path: Path) -> NDArray[np.int64]:
    return np.array([code for code in sorted(FT2Font(str(path)).get_charmap()) if unicodedata.name(chr(code), "")])


def _draw(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    """The character in the middle of the image, cut off where it is larger; None for one without ink."""
    mask = font.getmask(character, mode="L")
    width, height = mask.size
    if width == 0 or height == 0:
        return None
    ink = np.frombuffer(bytes(mask), dtype=np.uint8).reshape(height, width)
    if not ink.any():
        return None
    image = np.zeros((SIZE, SIZE), dtype=np.uint8)
    top, left = max(0, (height - SIZE) // 2), max(0, (width - SIZE) // 2)
    ink = ink[top : top + SIZE, left : left + SIZE]
    down, right = (SIZE - ink.shape[0]) // 2, (SIZE - ink.shape[1]) // 2
    image[down : down + ink.shape[0], right : right + ink.shape[1]] = ink
    return image
