"""Search by blocks: the bits of a search in memory, wherever the blocks begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from simtile.search import ExactIndex, search_blocks

METRICS: tuple[Literal["ip", "cosine", "l2"], ...] = ("ip", "cosine", "l2")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_rows", [1, 64, 1000, None])
def test_a_mapped_file_is_searched_as_if_it_were_in_memory(
    metric: Literal["ip", "cosine", "l2"], block_rows: int | None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 9)).astype(np.float32)
    vectors[200:250] = vectors[:50]  # ties across blocks
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    queries = np.concatenate([vectors[:5], rng.standard_normal((3, 9)).astype(np.float32)])
    found = search_blocks(mapped, queries, 12, metric=metric, block_rows=block_rows)
    wanted = ExactIndex(vectors, metric=metric).search(queries, 12)
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])


def test_scores_that_differ_in_float64_only_are_ranked_across_blocks() -> None:
    step = np.float32(2.0**-20)
    # 1 + step * step, which float32 rounds to 1, in the second block; exactly 1 in the first.
    vectors = np.array([[1.0, 0.0], [1.0, step]], np.float32)
    queries = np.array([[1.0, step]], np.float32)
    scores, ids = search_blocks(vectors, queries, 2, block_rows=1)
    assert scores.tolist() == [[1.0, 1.0]]
    assert ids.tolist() == [[1, 0]]


def test_padding_one_query_and_tensors() -> None:
    scores, ids = search_blocks(np.eye(3), torch.tensor([0.0, 1.0, 0.0]), 5, block_rows=2)
    assert isinstance(ids, torch.Tensor)
    assert ids.tolist() == [1, 0, 2, -1, -1]
    assert scores[3:].tolist() == [-np.inf, -np.inf]
    assert search_blocks(np.zeros((0, 3)), np.eye(3), 2)[1].tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), np.zeros((1, 3)), 1), "vectors: shape"),
        (([[1.0]], np.zeros((1, 1)), 1), "vectors: shape"),
        ((np.zeros((3, 2)), np.zeros((1, 3)), 1), "queries: 2 columns"),
        ((np.full((3, 2), np.inf), np.zeros((1, 2)), 1), "vectors: finite"),
    ],
)
def test_errors_name_the_argument(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_blocks(*arguments)
    with pytest.raises(ValueError, match="block_rows"):
        search_blocks(np.eye(2), np.eye(2), 1, block_rows=0)
