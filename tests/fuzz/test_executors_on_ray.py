"""The tests of test_executors, on actors of a Ray session of this machine."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Iterator

import pytest

from simtile.executors import RayExecutor
from test_executors import (  # noqa: F401 — tests, collected here with this file's executor
    test_a_block_that_always_kills_its_worker_ends_the_job,
    test_a_block_whose_worker_is_killed_is_computed_again,
    test_an_error_arrives_as_it_was_raised_and_is_not_tried_again,
    test_blocks_are_taken_as_workers_become_free,
    test_killed_workers_change_no_bit_of_searches_statistics_and_scores,
    test_results_come_in_the_order_of_the_blocks,
)

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import what this process can
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield RayExecutor(2, retries=1, num_cpus=1)
        ray.shutdown()
    with warnings.catch_warnings():  # of processes that Ray started and does not wait for
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
