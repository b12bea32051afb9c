"""Blocks shared out to workers that may be lost: one block at a time each, so that it is known which one was lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from simtile.executors._base import WorkerDiedError


class LostWorker(Exception):
    """It was killed, or its machine was."""


class RemoteWorker(ABC):
    """A worker elsewhere."""

    @abstractmethod
    def submit(self, arguments: tuple[Any, ...]) -> None:
        """Let it compute a block. Nothing is raised here: :meth:`result` tells."""

    @abstractmethod
    def result(self) -> Any:
        """Of the block; raises what the block raised, or :class:`LostWorker`."""

    @abstractmethod
    def stop(self) -> None:
        """At once, whatever it does."""


AHEAD = 8
"""Blocks a worker by which results may run ahead of the oldest block: what :meth:`Executor.in_order` has to keep."""

Remote = TypeVar("Remote", bound=RemoteWorker)


@dataclass
class _Block:
    number: int
    arguments: tuple[Any, ...]
    deaths: int = 0


def share_out(
    blocks: Iterable[tuple[Any, ...]],
    workers: int,
    retries: int,
    start: Callable[[], Remote],
    ready: Callable[[list[Remote]], list[Remote]],
) -> Iterator[tuple[int, Any]]:
    """Numbers and results of all blocks as they come.

    Parameters
    ----------
    start : callable () -> worker      called for the first blocks, and in place of workers that were lost
    ready : callable (workers at work) -> those that are done; waits until there is one

    Raises
    ------
    WorkerDiedError      when a block lost ``retries + 1`` workers
    """
    fresh = (_Block(number, arguments) for number, arguments in enumerate(blocks))
    again: deque[_Block] = deque()
    idle: list[Remote] = []
    running: dict[Remote, _Block] = {}
    alive: set[Remote] = set()

    def following() -> _Block | None:
        if again:
            return again.popleft()
        oldest = min((block.number for block in running.values()), default=taken)
        return next(fresh, None) if taken < oldest + AHEAD * workers else None

    taken = 0
    try:
        while True:
            while len(running) < workers and (block := following()) is not None:
                taken = max(taken, block.number + 1)
                if not idle:
                    idle.append(start())
                    alive.add(idle[-1])
                worker = idle.pop()
                running[worker] = block
                worker.submit(block.arguments)
            if not running:
                return
            for worker in ready(list(running)):
                block = running.pop(worker)
                try:
                    result = worker.result()
                except LostWorker as reason:
                    alive.remove(worker)
                    worker.stop()
                    block.deaths += 1
                    if block.deaths > retries:
                        message = f"block {block.number}: {block.deaths} workers died while they had it"
                        raise WorkerDiedError(message) from reason
                    again.append(block)
                else:
                    idle.append(worker)
                    yield block.number, result
    finally:
        for worker in alive:
            worker.stop()


def at_least(name: str, least: int, value: int) -> int:
    if value < least:
        raise ValueError(f"{name}: at least {least}, got {value}")
    return value
