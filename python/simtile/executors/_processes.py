"""Processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from simtile.executors._base import Executor, Function, Setup, Worker
from simtile.executors._sharing import LostWorker, RemoteWorker, at_least, share_out


class ProcessExecutor(Executor):
    """Spawned processes, started for each job.

    Parameters
    ----------
    workers : int
    retries : int      times that a block whose worker was killed is computed again, by a new one

    Notes
    -----
    Spawned, not forked: the parent may run threads. So a script needs ``if __name__ == "__main__":``, and functions,
    ``setup`` and blocks are pickled. Threads are counted a process: pass ``num_threads`` to what shares out its blocks.
    Ctrl-C is seen by the parent, which stops its workers.
    """

    def __init__(self, workers: int = 2, *, retries: int = 2) -> None:
        self.workers, self.retries = at_least("workers", 1, workers), at_least("retries", 0, retries)

    def stream(
        self, function: Function, blocks: Iterable[tuple[Any, ...]], *, setup: Setup | None = None
    ) -> Iterator[tuple[int, Any]]:
        def start() -> _Process:
            return _Process(function, setup)

        return share_out(blocks, self.workers, self.retries, start, _ready)


class _Process(RemoteWorker):
    def __init__(self, function: Function, setup: Setup | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, function, setup), daemon=True)
        self._process.start()
        other.close()  # so that the connection ends when the process does

    def submit(self, arguments: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # it is dead, which its result will say
            self.connection.send(arguments)

    def result(self) -> Any:
        try:
            result, error = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise LostWorker(f"a worker ended with exit code {self._process.exitcode}") from None
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        self.connection.close()
        self._process.terminate()
        self._process.join()


def _ready(workers: list[_Process]) -> list[_Process]:
    done = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in done]


def _serve(connection: Connection, function: Function, setup: Setup | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(function, setup)
    while True:
        try:
            block = connection.recv()
        except EOFError:  # the parent is gone
            return
        connection.send_bytes(pickle.dumps(worker.outcome(block)))
