"""A first pass along principal directions: the same bits as any other, where it pays."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from simtile import _core
from simtile.search import ExactIndex, build

Metric = Literal["ip", "cosine", "l2"]


def like_embeddings(rng: np.random.Generator, n: int, d: int) -> NDArray[np.float32]:
    """Lengths of the directions fall off, and there is a mean."""
    rows = rng.standard_normal((n, d)) / np.arange(1, d + 1) + 0.3
    turned, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return (rows @ turned).astype(np.float32)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_leading_directions_change_no_bit_whatever_is_done_with_the_index(
    rng: np.random.Generator, tmp_path: Path, metric: Metric
) -> None:
    rows, queries = like_embeddings(rng, 5000, 96), like_embeddings(rng, 40, 96)
    indexes = [ExactIndex(rows[:4500], metric=metric, first_pass=name) for name in ("f32", "pca")]
    assert [index.first_pass for index in indexes] == ["f32", "pca"]

    def agree() -> None:
        for found in zip(*([*i.search(queries, 7), *i.knn_graph(4)] for i in indexes), strict=True):
            np.testing.assert_array_equal(*found)
        bound = float(indexes[0].search(queries[0], 30)[0][-1])
        for found in zip(*(i.range_search(queries, bound) for i in indexes), strict=True):
            np.testing.assert_array_equal(*found)

    agree()
    for index in indexes:
        index.add(rows[4500:])
        index.remove(np.arange(0, 5000, 7))
    agree()
    indexes[1].save(tmp_path / "index")
    for again in (ExactIndex.load(tmp_path / "index"), pickle.loads(pickle.dumps(indexes[1]))):
        assert again.first_pass == "pca"
        indexes[1] = again
        agree()


def test_directions_are_left_alone_where_none_lead(rng: np.random.Generator) -> None:
    round_cloud = rng.standard_normal((5000, 96), dtype=np.float32)
    assert ExactIndex(round_cloud, first_pass="pca").first_pass == "i8"
    assert ExactIndex(round_cloud[:, :32], first_pass="pca").first_pass == "i8"
    assert ExactIndex(round_cloud[:0], first_pass="pca").first_pass == "i8"
    broken = like_embeddings(rng, 5000, 96)
    broken[4999, 0] = np.nan
    with pytest.raises(ValueError, match="row 4999"):
        ExactIndex(broken, first_pass="pca")
    huge = like_embeddings(rng, 5000, 96) * np.float32(1e36)
    np.testing.assert_array_equal(
        ExactIndex(huge, first_pass="pca").search(huge[:5], 3)[1], ExactIndex(huge).search(huge[:5], 3)[1]
    )


def test_build_takes_directions_where_many_queries_are_to_come(rng: np.random.Generator) -> None:
    rows = like_embeddings(rng, 5000, 96)
    bytes_are_fast = _core.isas()[0] == "avx512_bf16"
    for queries, wanted in ((100, "i8"), (1_000_000, "pca")):
        index = build(rows, recall=1, queries=queries)
        assert isinstance(index, ExactIndex)
        assert index.first_pass == (wanted if bytes_are_fast else "f32")
    clustered = (rng.standard_normal((4096, 64)) * 1e-4 + 1).astype(np.float32)
    assert build(clustered, recall=1).first_pass == "f32"  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [1e-44, 1e-25, 1e25])
def test_any_size_of_vectors_beside_a_bias_is_searched_right(rng: np.random.Generator, size: float) -> None:
    rows = (like_embeddings(rng, 4500, 64) * size).astype(np.float32)
    bias = rng.standard_normal(len(rows), dtype=np.float32)
    found = [
        ExactIndex(rows, item_bias=bias, first_pass=name).search(rows[:20], 5)  # type: ignore[arg-type]
        for name in ("f32", "pca")
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
