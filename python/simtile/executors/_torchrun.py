"""The ranks of a process group."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from simtile._extras import missing_extra
from simtile.executors._base import Executor, Function, Setup, Worker


class TorchrunExecutor(Executor):
    """Each rank computes every W-th block and gets the results of all; all ranks must make the same calls.

    Parameters
    ----------
    group : ProcessGroup or None      None: the default group of ``torch.distributed``

    Notes
    -----
    What a rank raises is raised on all. When a rank is killed the others raise torch's error, and ``torchrun
    --max-restarts N`` begins the job again, at most N times: what is to be kept over a restart the job has to write
    down, as a journal of scores does. (With gloo and torch 2.13 that needs ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``.)
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def stream(
        self, function: Function, blocks: Iterable[tuple[Any, ...]], *, setup: Setup | None = None
    ) -> Iterator[tuple[int, Any]]:
        dist = _initialized()
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        worker = Worker(function, setup)
        numbered = enumerate(blocks)
        while together := list(itertools.islice(numbered, size)):
            own = worker.outcome(together[rank][1]) if rank < len(together) else None
            for (number, _), (result, failure) in zip(together, self.everywhere(own), strict=False):
                if failure is not None:
                    raise failure
                yield number, result

    def everywhere(self, value: Any) -> list[Any]:
        dist = _initialized()
        everyone: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(everyone, value, group=self.group)
        return everyone


def _initialized() -> Any:
    """``torch.distributed``."""
    try:
        import torch.distributed as dist
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    if not dist.is_initialized():
        raise RuntimeError("executor: torch.distributed.init_process_group must have been called")
    return dist
