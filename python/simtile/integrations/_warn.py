"""Warnings that a drop-in gives once, not at every step."""

from __future__ import annotations

import functools
import warnings


@functools.cache
def warn_once(message: str) -> None:
    """Warn the first time that this message is given in this process."""
    warnings.warn(message, UserWarning, stacklevel=3)
