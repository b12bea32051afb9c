"""What an executor is."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Function: TypeAlias = Callable[..., Any]
Setup: TypeAlias = Callable[[], Any]


class WorkerDiedError(RuntimeError):
    """Workers were killed, time and again, while they had the same block."""


class Executor(ABC):
    """Computes blocks somewhere."""

    @abstractmethod
    def stream(
        self, function: Function, blocks: Iterable[tuple[Any, ...]], *, setup: Setup | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Results as they come.

        Parameters
        ----------
        function : callable      of a block's arguments; importable by the workers. Called again with the same block
            when its worker was killed, so that it must not change anything that outlasts the worker
        blocks : iterable of tuples      the arguments; taken one by one, a few more than there are workers
        setup : callable () -> object, optional      called once in each worker; the function gets its result as first
            argument. For what all blocks share, which then travels once, or lives in the worker only, such as a model

        Yields
        ------
        (number, result)      of each block once, in any order

        Raises
        ------
        Exception      whatever ``setup`` or the function raised, at once; the block is not tried again
        WorkerDiedError      see the executor's ``retries``
        """

    def everywhere(self, value: Any) -> list[Any]:
        """The value of each process that makes this call: here of one; under torchrun one a rank, in their order.

        For what blocks are made of and processes may know differently, such as a journal of each.
        """
        return [value]

    def in_order(
        self, function: Function, blocks: Iterable[tuple[Any, ...]], *, setup: Setup | None = None
    ) -> Iterator[Any]:
        """Results in the order of the blocks; those that come early wait. See :meth:`stream`."""
        early: dict[int, Any] = {}
        following = 0
        for number, result in self.stream(function, blocks, setup=setup):
            early[number] = result
            while following in early:
                yield early.pop(following)
                following += 1


class InProcess(Executor):
    """One block after another in this process, each with all its threads."""

    def stream(
        self, function: Function, blocks: Iterable[tuple[Any, ...]], *, setup: Setup | None = None
    ) -> Iterator[tuple[int, Any]]:
        worker = Worker(function, setup)
        for number, block in enumerate(blocks):
            yield number, worker.compute(block)


def as_executor(executor: Any, default: Callable[[], Executor] = InProcess) -> Executor:
    """The argument ``executor``, or the default for None."""
    if executor is None:
        return default()
    if not isinstance(executor, Executor):
        raise TypeError(f"executor: an Executor of simtile.executors or None, got {type(executor).__name__}")
    return executor


class Worker:
    """A function and what it works with, where they live. An error of ``setup`` is raised by the first block."""

    def __init__(self, function: Function, setup: Setup | None) -> None:
        self._function = function
        self._first: tuple[Any, ...] = ()
        self._error: Exception | None = None
        try:
            if setup is not None:
                self._first = (setup(),)
        except Exception as error:
            self._error = error

    def compute(self, block: tuple[Any, ...]) -> Any:
        if self._error is not None:
            raise self._error
        return self._function(*self._first, *block)

    def outcome(self, block: tuple[Any, ...]) -> tuple[Any, Exception | None]:
        """The result and None, or None and an error that can travel."""
        try:
            return self.compute(block), None
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                return None, RuntimeError(f"{type(error).__name__}: {error}")
            return None, error
