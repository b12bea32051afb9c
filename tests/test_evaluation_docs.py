"""The examples of docs/evaluation.md and of the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import simtile.evaluation

ROOT = Path(__file__).parents[1]
MODULES = re.findall(r"^    (\w+) {2,}", simtile.evaluation.__doc__ or "", re.MULTILINE)


def names() -> dict[str, object]:
    """What the page's examples take as given."""
    rng = np.random.default_rng(0)
    of = lambda *shape: rng.normal(size=shape)  # noqa: E731
    return {
        "np": np, "torch": torch, "x": torch.randn(12, 8), "y": torch.randn(9, 8), "vectors": of(40, 8),
        "other_vectors": of(40, 5), "queries": of(3, 8), "items": of(40, 8), "indptr": np.array([0, 10, 25, 40]),
        "relevant": np.isin(np.arange(40), [4, 12, 30]), "sport_words": of(4, 8), "music_words": of(5, 8),
        "prompts": torch.randn(3, 8), "captions": torch.randn(60, 8), "pool": torch.randn(60, 8),
        "logits": torch.randn(20, 6), "source_attributes": of(5, 8), "target_attributes": of(5, 8),
        "edited": of(2, 8), "original": of(2, 8), "pixels": torch.randn(2, 8, 4, 5), "texts": torch.randn(3, 8),
        "pixel_labels": torch.randint(3, (2, 4, 5)), "region": torch.arange(9) < 3,
    }  # fmt: skip


@pytest.mark.parametrize("number", range(11))
def test_the_examples_of_the_page_run(number):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/evaluation.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 11
    found = names()
    exec(compile(blocks[number], "docs/evaluation.md", "exec"), found)
    if "loss" in found:
        assert torch.isfinite(found["loss"])


@pytest.mark.parametrize("name", MODULES)
def test_every_module_of_the_package_is_listed_and_its_examples_hold(name):
    assert len(MODULES) == len(list((ROOT / "python/simtile/evaluation").glob("[a-z]*.py")))
    module = importlib.import_module(f"simtile.evaluation.{name}")
    assert set(module.__all__) <= set(dir(module))
    assert doctest.testmod(module, extraglobs={"np": np, "torch": torch}).failed == 0
