"""The machines of test_stateful and test_search_exact_changes, for longer."""

from __future__ import annotations

from hypothesis import settings

import test_search_exact_changes
import test_stateful

LONGER = settings(max_examples=150, stateful_step_count=30, deadline=None)


class TestGraphIndex(test_stateful.GraphIndexAgainstADict.TestCase):  # type: ignore[misc]
    settings = LONGER


class TestExactIndex(test_search_exact_changes.ExactIndexAgainstADict.TestCase):  # type: ignore[misc]
    settings = LONGER


class TestReducer(test_stateful.ReducerAgainstFormulas.TestCase):  # type: ignore[misc]
    settings = LONGER
