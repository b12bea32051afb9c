"""Actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from simtile._extras import missing_extra
from simtile.executors._base import Executor, Function, Setup, Worker
from simtile.executors._sharing import LostWorker, RemoteWorker, at_least, share_out


class RayExecutor(Executor):
    """Ray actors, started for each job; the current Ray session, or a new one on this machine.

    Parameters
    ----------
    workers : int
    retries : int      times that a block whose actor or machine was lost is computed again, by a new actor
    **options      of ``ray.remote`` for the actors, such as ``num_cpus``, ``num_gpus`` and ``resources``

    Notes
    -----
    What ``setup`` refers to lies in Ray's store once a machine; arrays in it are not copied, and cannot be written to.
    """

    def __init__(self, workers: int = 2, *, retries: int = 2, **options: Any) -> None:
        self.workers, self.retries = at_least("workers", 1, workers), at_least("retries", 0, retries)
        self.options = options

    def stream(
        self, function: Function, blocks: Iterable[tuple[Any, ...]], *, setup: Setup | None = None
    ) -> Iterator[tuple[int, Any]]:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise missing_extra(error) from None
        # Retries are counted by block, and for actors that die while they are made as well.
        kind = ray.remote(**{"max_restarts": 0, "max_task_retries": 0, **self.options})(Worker)
        shared = ray.put(setup)

        def start() -> _Actor:
            return _Actor(kind.remote(function, shared))

        return share_out(blocks, self.workers, self.retries, start, _ready)


class _Actor(RemoteWorker):
    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.answer: Any = None

    def submit(self, arguments: tuple[Any, ...]) -> None:
        self.answer = self.actor.outcome.remote(arguments)

    def result(self) -> Any:
        import ray

        try:
            result, error = ray.get(self.answer)
        except ray.exceptions.RayActorError as reason:
            raise LostWorker(str(reason)) from None
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        import ray

        ray.kill(self.actor)


def _ready(workers: list[_Actor]) -> list[_Actor]:
    import ray

    done = ray.wait([worker.answer for worker in workers])[0]
    return [worker for worker in workers if worker.answer in done]
