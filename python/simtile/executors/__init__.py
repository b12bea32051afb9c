"""Where the blocks of a large job are computed: in this process, in processes beside it, in torchrun's ranks, on Ray.

A job is cut into blocks that do not depend on each other and whose sizes do not depend on the workers, and partial
results are merged in the order of the blocks: every executor gives the bits of one process.

    search_blocks(vectors, queries, 10, executor=ProcessExecutor(2))
    HubnessReducer(executor=TorchrunExecutor()).fit(gallery, query_bank=bank)      on every rank, with the same arrays
    score_blocks(queries, items, make_scorer, journal, executor=RayExecutor(16, num_gpus=1))
"""

from simtile.executors._base import Executor, InProcess, WorkerDiedError
from simtile.executors._processes import ProcessExecutor
from simtile.executors._ray import RayExecutor
from simtile.executors._torchrun import TorchrunExecutor

__all__ = ["Executor", "InProcess", "ProcessExecutor", "RayExecutor", "TorchrunExecutor", "WorkerDiedError"]
