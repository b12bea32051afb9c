"""The examples of the page on corpora, and of the docstrings, run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from simtile.search import ExactIndex

PAGE = Path(__file__).parents[1] / "docs" / "corpus.md"


def test_the_examples_of_the_page_run(rng):
    vectors = rng.standard_normal((120, 6)).astype(np.float32)
    names = {
        "index": ExactIndex(vectors), "vectors": vectors, "labels": np.arange(120) % 5,
        "item_labels": np.arange(120) % 5, "source_of_item": np.arange(120) // 10,
        "validation_queries": vectors[:30], "validation_labels": np.arange(30) % 5,
        "train_queries": vectors, "test_queries": rng.standard_normal((4, 6)),
    }  # fmt: skip
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "corpus.md", "exec"), names)
    assert names["kept"].any() and names["weights"].sum() == 120 and len(names["folds"]) == 5
    assert sorted(i for batch in names["batches"] for i in batch) == list(range(120))


@pytest.mark.parametrize("module", ["batches", "clustering", "facility", "importance", "resampling"])
def test_the_examples_of_the_docstrings_hold(module):
    done = doctest.testmod(importlib.import_module(f"simtile.corpus.{module}"))
    assert done.attempted and not done.failed
