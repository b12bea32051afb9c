"""The adapter behaves as ann-benchmarks' runner expects."""

from __future__ import annotations

import numpy as np
import pytest

from simtile.integrations.ann_benchmarks import SimtileExact, SimtileGraph


@pytest.mark.parametrize("metric", ["angular", "euclidean"])
def test_the_runner_s_calls(metric):
    rng = np.random.default_rng(0)
    base, asked = rng.standard_normal((500, 12)), rng.standard_normal((5, 12))
    exact, graph = SimtileExact(metric), SimtileGraph(metric, {"degree": 16})
    for algorithm in (exact, graph):
        algorithm.fit(base)
    graph.set_query_arguments(500)
    unit = (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)) if metric == "angular" else (lambda x: x)
    distances = ((unit(asked)[:, None] - unit(base)) ** 2).sum(2)
    for algorithm in (exact, graph):
        algorithm.batch_query(asked, 3)
        assert np.array_equal(algorithm.get_batch_results(), np.argsort(distances, axis=1)[:, :3])
        assert np.array_equal(algorithm.query(asked[0], 3), np.argsort(distances[0])[:3])
        assert "Simtile" in str(algorithm) and algorithm.get_memory_usage() > 0
        algorithm.done()
    with pytest.raises(ValueError, match="metric"):
        SimtileExact("hamming")
