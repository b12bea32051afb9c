"""Run a function on several gloo processes of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(function: Callable[[int], Any], world_size: int, folder: Path) -> list[Any]:
    """``function(rank)`` of each rank, inside a process group of ``world_size``; it must be a module's own function.

    Results travel through ``folder``, which has to be empty: whatever ``torch.save`` can write.
    """
    mp.spawn(_run, (function, world_size, folder), nprocs=world_size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _run(rank: int, function: Callable[[int], Any], world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    try:
        torch.save(function(rank), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
