"""What `test_hubness_on_ranks` has torchrun start: rank 1 is killed in its second block, before the first restart."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
from torch import distributed as dist

from simtile.executors import TorchrunExecutor
from simtile.search import blocks

if __name__ == "__main__":
    search = blocks._Search.block

    def block(self: blocks._Search, start: int, end: int) -> object:
        if start >= 60 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return search(self, start, end)

    blocks._Search.block = block  # type: ignore[method-assign,assignment]
    dist.init_process_group("gloo")
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    scores, ids = blocks.search_blocks(vectors, vectors[:9], 4, block_rows=20, executor=TorchrunExecutor())
    np.savez(f"{sys.argv[1]}/{dist.get_rank()}.npz", scores=scores, ids=ids)
    dist.destroy_process_group()
