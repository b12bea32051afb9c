"""Calls within limits of memory from nothing to enough."""

from __future__ import annotations

import sys

import pytest

import memory_job
from test_faults_memory_and_signals import with_little_memory


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("call", memory_job.CALLS)
def test_no_amount_of_memory_ends_the_process(call: str) -> None:
    for mebibytes in (1, 2, 3, 5, 8, 12, 18, 27, 40, 80, 160):
        with_little_memory(call, mebibytes)
