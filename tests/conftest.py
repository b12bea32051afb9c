"""Fixtures and the hypothesis profile shared by all tests."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import settings

# Derandomized: a failure is a property of the commit, not of the run. No deadline: the first call may build a kernel.
settings.register_profile("simtile", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("simtile")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the test's node id, so that no test depends on its neighbours or their order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))
