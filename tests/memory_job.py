"""One call within so many MiB more than the process has: "done", or the name of the error that it raised.

python memory_job.py CALL MIB
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from simtile import _core
from simtile.search import ExactIndex, GraphIndex, search_blocks

x = np.random.default_rng(0).standard_normal((20_000, 64), dtype=np.float32)
index = ExactIndex(x)
small = GraphIndex.build(x[:300])
ones = np.ones(len(x), np.float32)


def changed() -> Any:
    try:
        small.add(x)
    except MemoryError:
        # Half a change is no index any more, and says so; or nothing was changed.
        try:
            assert len(small.search(x[:1], 3)[1]) == 1 and len(small) == 300
        except RuntimeError as error:
            assert "midway" in str(error)  # noqa: PT017
        raise


CALLS: dict[str, Any] = {
    "exact": lambda: ExactIndex(x, metric="cosine"),
    "search": lambda: index.search(x, 50),
    "huge_k": lambda: index.search(x, 20_000),
    "knn_graph": lambda: index.knn_graph(30),
    "range": lambda: index.range_search(x[:3000], -1e9),
    "graph": lambda: GraphIndex.build(x[:3000]),
    "graph_add": changed,
    "blocks": lambda: search_blocks(x, x, 20),
    "lse": lambda: _core.pair_lse(x, x, 1.0, want_column=True, want_stash=True, num_threads=2),
    "grad": lambda: _core.pair_grad(x, x, 1.0, row_lse=ones, row_grad=ones, num_threads=2),
    "stats": lambda: _core.pair_stats(x, x, [1.0], 10),
    "topk": lambda: _core.pair_topk(x, x, 300),
    "rank": lambda: _core.pair_rank(x, x, 1.0),
    "threads": lambda: index.search(x[:5000], 5, num_threads=500),
}

if __name__ == "__main__":
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (int(float(sys.argv[2]) * 2**20))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        CALLS[sys.argv[1]]()
    except (MemoryError, RuntimeError) as error:
        print(type(error).__name__, error)
    else:
        print("done")
