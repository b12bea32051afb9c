"""Progress on a terminal as a bar, elsewhere (a log file, CI) as a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """A context manager around one stage of known or unknown length."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._note = ""
        self._last_line = time.monotonic()
        # disable=None: off where stderr is not a terminal.
        self._bar = tqdm(total=total, desc=f"  {label}", unit=f" {unit}", disable=None, dynamic_ncols=True, leave=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count n more units; `note` stands behind the bar, or on the line."""
        self._done += n
        self._note = note
        self._bar.update(n)
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        if self._bar.disable and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            of = f"/{self._total:,}" if self._total else ""
            print(
                f"  {self._label}: {self._done:,}{of} {self._unit} {self._note}".rstrip(), file=sys.stderr, flush=True
            )
