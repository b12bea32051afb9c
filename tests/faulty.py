"""Work that kills its worker, for tests of executors: importable by spawned processes, and without torch."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simtile.executors import Executor


def square(number: int) -> int:
    return number * number


def attempts(folder: Path, number: int) -> int:
    """How often a block was begun, this time included."""
    with open(folder / str(number), "ab") as log:
        log.write(b"x")
        return log.tell()


def dies(folder: Path, times: int, on: int, number: int) -> int:
    """The square, but block ``on`` kills its worker so many times first."""
    if attempts(folder, number) <= times and number == on:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


def refuses(folder: Path, number: int) -> int:
    attempts(folder, number)
    if number == 3:
        raise KeyError("three")
    return number


def no_setup() -> None:
    raise FileNotFoundError("no model here")


def with_first(first: Any, number: int) -> int:
    return number


class Deadly(Executor):
    """Another executor, with a function that is killed halfway through each third block, once."""

    def __init__(self, executor: Executor, folder: Path) -> None:
        self.executor, self.folder = executor, folder

    def stream(self, function: Any, blocks: Any, *, setup: Any = None) -> Iterator[tuple[int, Any]]:
        numbered = ((number, block) for number, block in enumerate(blocks))
        deadly = functools.partial(_killed_halfway, self.folder, function)
        setup = functools.partial(_tuple_of, setup)
        return self.executor.stream(deadly, numbered, setup=setup)


def _tuple_of(setup: Any) -> tuple[Any, ...]:
    return () if setup is None else (setup(),)


def _killed_halfway(folder: Path, function: Any, first: tuple[Any, ...], number: int, block: tuple[Any, ...]) -> Any:
    result = function(*first, *block)
    if number % 3 == 1 and attempts(folder, number) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
