"""The rows of a bank, kept for the items and banks that come later: in memory as given, or as files in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


class BankRows:
    """Parts of a bank in the order in which they came.

    Parameters
    ----------
    folder : Path or None      None: references to the arrays given, which must not be changed then. Otherwise each
        part is written there and mapped into memory, page by page as it is read
    name : str      start of the files' names
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self.folder = folder
        self.name = name
        self.parts: list[Rows] = []

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def append(self, rows: Rows) -> None:
        """Keep further rows (B, D)."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{self.name}-{len(self.parts):04}.npy"
            np.save(path, rows, allow_pickle=False)
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        self.parts.append(rows)

    def joined(self) -> Rows:
        """All rows (B, D)."""
        return np.concatenate(self.parts) if len(self.parts) != 1 else self.parts[0]
