"""Where the blocks of a bank and of queries are computed: in this process, in the processes of torchrun, or on Ray.

Blocks have a fixed size and are put together in their order, so that every executor gives the same bits.

    HubnessReducer(executor=TorchrunExecutor()).fit(gallery, query_bank=bank)        on every rank, with the same arrays
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simtile._extras import missing_extra


class TorchrunExecutor:
    """Each rank computes every W-th block and gets the results of all; all ranks must make the same calls.

    Parameters
    ----------
    group : ProcessGroup or None      None: the default group of ``torch.distributed``
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def __call__(self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        try:
            import torch.distributed as dist
        except ModuleNotFoundError as error:
            raise missing_extra(error) from None
        if not dist.is_initialized():
            raise RuntimeError("executor: torch.distributed.init_process_group must have been called")
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        own = {i: function(*jobs[i]) for i in range(rank, len(jobs), size)}
        everyone: list[Any] = [None] * size
        dist.all_gather_object(everyone, own, group=self.group)
        found = {i: result for part in everyone for i, result in part.items()}
        return [found[i] for i in range(len(jobs))]


class RayExecutor:
    """A Ray task a block. Arrays that several blocks share, the gallery foremost, go to Ray's store once.

    Parameters
    ----------
    **options      of ``ray.remote``, such as ``num_cpus``
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise missing_extra(error) from None
        task = ray.remote(**self.options)(function) if self.options else ray.remote(function)
        shared: dict[int, Any] = {}

        def reference(value: Any) -> Any:
            if value is None or isinstance(value, (bool, int, float, str, tuple)):
                return value
            if id(value) not in shared:
                shared[id(value)] = ray.put(value)
            return shared[id(value)]

        found: list[Any] = ray.get([task.remote(*map(reference, job)) for job in jobs])
        return found
