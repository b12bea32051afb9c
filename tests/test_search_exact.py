"""Exact search: every first pass returns what sorting all float64 scores returns, whatever the data."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from simtile import _core
from simtile.search import ExactIndex

Metric = Literal["ip", "cosine", "l2"]
Scores = NDArray[np.float64]
METRICS: tuple[Metric, ...] = ("ip", "cosine", "l2")
ISAS = _core.isas()
# One shape a regime: (M, N, D, k).
SHAPES = [
    pytest.param(1, 1, 1, 1, id="one of everything"),
    pytest.param(3, 5, 2, 9, id="below a tile, k beyond N"),
    pytest.param(24, 512, 128, 4, id="exact tiles and blocks"),
    pytest.param(13, 777, 131, 10, id="ragged in every dimension"),
    pytest.param(2, 9001, 33, 100, id="few queries: the items are shared out among threads"),
    pytest.param(500, 300, 20, 300, id="more queries than a unit, everything is returned"),
]


def exact_scores(
    queries: Any, vectors: Any, metric: Metric, scale: Any = None, bias: Any = None
) -> NDArray[np.float64]:
    """Larger is better."""
    q, v = np.asarray(queries, np.float64), np.asarray(vectors, np.float64)
    if metric == "l2":
        return -np.stack([((row - v) ** 2).sum(axis=1) for row in q])
    s = np.stack([(row * v).sum(axis=1) for row in q])
    if metric == "cosine":
        norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(v, axis=1)
        s = s / np.where(norms == 0, 1, norms)
    s = s if scale is None else s * np.asarray(scale, np.float64)
    return s if bias is None else s + np.asarray(bias, np.float64)


def check(found: tuple[Any, Any], exact: NDArray[np.float64], k: int, metric: Metric) -> None:
    """Against float64 whose sums run in another order: ids may differ where scores agree to 1e-13 of the largest."""
    scores, ids = found
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    assert scores.shape == ids.shape == (len(exact), k)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    wanted = np.take_along_axis(exact, order, axis=1)
    valid = np.isfinite(wanted)
    held = order.shape[1]
    np.testing.assert_array_equal(ids[:, :held] >= 0, valid)
    assert (ids[:, held:] == -1).all()
    assert (scores[:, held:] == (np.inf if metric == "l2" else -np.inf)).all()
    got = np.take_along_axis(exact, np.where(ids[:, :held] < 0, 0, ids[:, :held]), axis=1)
    size = np.abs(exact[np.isfinite(exact)]).max(initial=0)
    np.testing.assert_allclose(got[valid], wanted[valid], rtol=1e-12, atol=1e-13 * size)
    sign = -1 if metric == "l2" else 1
    np.testing.assert_allclose(sign * scores[:, :held][valid], wanted[valid], rtol=1e-7, atol=1e-13 * size + 1e-45)
    for row in ids:
        assert len(set(row[row >= 0])) == (row >= 0).sum()


def any_directions(d: int) -> dict[str, Any]:
    matrix, _ = np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))
    return {"directions": matrix.astype(np.float32), "leading": (d % 3, (d - d % 3 + 1) // 2)}


def every_pass(vectors: Any, queries: Any, k: int, metric: Metric, isa: str | None = None, **how: Any) -> Any:
    """The result of the float32 pass, after those of the codes were found to be the same bits."""
    items = {name: how.pop(name, None) for name in ("item_scale", "item_bias")}
    d, results = np.shape(vectors)[1], []
    for codes, along in ((False, {}), (True, {}), (True, any_directions(d)) if d > 3 else (True, {})):
        store = _core.ExactStore(vectors, metric=metric, codes=codes, isa=isa, **along, **items)
        results += [store.search(queries, k, num_threads=threads, isa=isa, **how)[:2] for threads in (1, 2, 5)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][1], other[1])
        np.testing.assert_array_equal(results[0][0], other[0])
    return results[0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("m", "n", "d", "k"), SHAPES)
def test_agrees_with_float64_on_every_instruction_set(
    rng: np.random.Generator, m: int, n: int, d: int, k: int, metric: Metric, isa: str
) -> None:
    x, y = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (m, n))
    check(every_pass(y, x, k, metric, isa), exact_scores(x, y, metric), k, metric)
    if metric != "l2":
        scale, bias = rng.standard_normal(n, dtype=np.float32), rng.standard_normal(n, dtype=np.float32)
        found = every_pass(y, x, k, metric, isa, item_scale=scale, item_bias=bias)
        check(found, exact_scores(x, y, metric, scale, bias), k, metric)


def test_instruction_sets_agree_bit_by_bit(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((30, 77), dtype=np.float32), rng.standard_normal((900, 77), dtype=np.float32)
    results = [every_pass(y, x, 20, "cosine", isa) for isa in ISAS]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][0], other[0])
        np.testing.assert_array_equal(results[0][1], other[1])


def adversarial(rng: np.random.Generator, kind: str, n: int, d: int) -> NDArray[np.float32]:
    """Rows on which a careless bound fails."""
    y = rng.standard_normal((n, d), dtype=np.float32)
    if kind == "outlier rows":
        y[rng.integers(0, n, 3)] *= np.float32(10.0 ** rng.integers(2, 36))
    elif kind == "outlier elements":
        y[rng.integers(0, n, n // 3), rng.integers(0, d, n // 3)] *= 1e4
    elif kind == "heavy coordinates":
        y[:, rng.integers(0, d, 2)] *= 1e3
    elif kind == "zeros":
        y[rng.random((n, d)) < 0.5] = 0
        y[rng.random(n) < 0.3] = 0
    elif kind == "dynamic range":
        y *= np.exp2(rng.integers(-70, 60, (n, 1))).astype(np.float32)
    elif kind == "range in a row":
        y *= np.exp2(rng.integers(-40, 20, (n, d))).astype(np.float32)
    elif kind == "denormals":
        y *= np.float32(1e-40)
    elif kind == "huge":
        y *= np.float32(1e37)
    elif kind == "near ties":
        y = np.repeat(y[:1], n, axis=0)
        at = rng.integers(0, d, n)
        y[np.arange(n), at] = np.nextafter(y[np.arange(n), at], np.float32(np.inf))
    elif kind == "duplicates":
        y = y[rng.integers(0, max(1, n // 50), n)]
    elif kind == "far from the origin":
        y = y * np.float32(1e-3) + np.float32(100)
    return y


KINDS = (
    "normal", "outlier rows", "outlier elements", "heavy coordinates", "zeros", "dynamic range", "range in a row",
    "denormals", "huge", "near ties", "duplicates", "far from the origin",
)  # fmt: skip


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    query_kind=st.sampled_from((*KINDS, "the items")),
    metric=st.sampled_from(METRICS),
    n=st.integers(1, 700),
    d=st.integers(1, 140),
    k=st.integers(1, 25),
    affine=st.booleans(),
)
@settings(max_examples=250)
def test_codes_return_the_same_bits_as_float32_on_adversarial_data(
    seed: int, kind: str, query_kind: str, metric: Metric, n: int, d: int, k: int, affine: bool
) -> None:
    rng = np.random.default_rng(seed)
    y = adversarial(rng, kind, n, d)
    x = y[rng.integers(0, n, 5)] if query_kind == "the items" else adversarial(rng, query_kind, 5, d)
    items: dict[str, Any] = {}
    if affine and metric != "l2":
        items["item_scale"] = rng.standard_normal(n, dtype=np.float32)
        items["item_bias"] = rng.standard_normal(n, dtype=np.float32) * np.float32(10.0 ** rng.integers(-9, 9))
    found = every_pass(y, x, k, metric, **items)
    with np.errstate(over="ignore"):
        exact = exact_scores(x, y, metric, items.get("item_scale"), items.get("item_bias"))
        # Scores beyond float32 are returned as infinities, in the right order.
        representable = np.abs(exact).max() < 3e38
    if representable:
        check(found, exact, k, metric)


def test_near_duplicates_get_accurate_distances(rng: np.random.Generator) -> None:
    y = (rng.standard_normal((300, 48)) * 1e-4 + 50).astype(np.float32)
    scores, ids = ExactIndex(y, metric="l2").search(y, 3)
    np.testing.assert_array_equal(ids[:, 0], np.arange(300))
    assert not scores[:, 0].any()
    assert not np.signbit(scores).any()
    exact = ((y[:, None].astype(np.float64) - y[ids].astype(np.float64)) ** 2).sum(axis=2)
    np.testing.assert_allclose(scores, exact, rtol=1e-7)


def test_an_outlier_loosens_only_its_own_block(rng: np.random.Generator) -> None:
    y = rng.standard_normal((8192, 64), dtype=np.float32)
    x = rng.standard_normal((50, 64), dtype=np.float32)
    computed = _core.ExactStore(y, codes=True).search(x, 10)[2]
    y[4000] *= -1e6
    loosened = _core.ExactStore(y, codes=True).search(x, 10)[2]
    assert loosened <= computed + len(x) * 300  # a block holds 256 items


def test_filters_and_exclusions(rng: np.random.Generator) -> None:
    y, x = rng.standard_normal((900, 24), dtype=np.float32), rng.standard_normal((31, 24), dtype=np.float32)
    index = ExactIndex(y)
    exact = exact_scores(x, y, "ip")
    # Shares on both sides of the one below which exact scores are taken at once, and nothing at all.
    for share in (0.6, 0.1, 0.01, 0.0):
        mask = rng.random(900) < share
        allowed = np.where(mask, exact, -np.inf)
        check(index.search(x, 12, filter=mask), allowed, 12, "ip")
        check(index.search(x, 12, filter=rng.permutation(np.flatnonzero(mask))), allowed, 12, "ip")
        best = np.argsort(-allowed, axis=1)[:, :4]
        excluded = allowed.copy()
        np.put_along_axis(excluded, best, -np.inf, axis=1)
        exclude = (np.arange(0, 4 * 31 + 1, 4), best.ravel())
        check(index.search(x, 12, filter=mask, exclude=exclude, num_threads=2), excluded, 12, "ip")


@pytest.mark.parametrize("metric", METRICS)
def test_empty_sides_and_k(rng: np.random.Generator, metric: Metric) -> None:
    y = rng.standard_normal((5, 3), dtype=np.float32)
    index, empty = ExactIndex(y, metric=metric), ExactIndex(y[:0], metric=metric)
    assert index.search(y, 0)[1].shape == (5, 0)
    assert index.search(y[:0], 2)[1].shape == (0, 2)
    scores, ids = empty.search(y, 2)
    assert (ids == -1).all()
    assert np.isinf(scores).all()
    assert len(index) == 5
    assert index.dim == 3
    assert "5 x 3" in repr(index)


def test_a_zero_query_or_item_has_cosine_0() -> None:
    y = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], np.float32)
    scores, ids = ExactIndex(y, metric="cosine").search(np.array([[2.0, 0.0], [0.0, 0.0]], np.float32), 3)
    assert ids.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert scores.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


def test_layouts_and_dtypes_are_converted(rng: np.random.Generator) -> None:
    y, x = rng.standard_normal((60, 16), dtype=np.float32), rng.standard_normal((9, 16), dtype=np.float32)
    wanted = ExactIndex(y).search(x, 4)
    wide = np.zeros((60, 32), np.float32)
    wide[:, ::2] = y
    for vectors in (np.asfortranarray(y), wide[:, ::2], y[::-1][::-1], y.astype(np.float64)):
        np.testing.assert_array_equal(ExactIndex(vectors).search(np.asfortranarray(x), 4)[1], wanted[1])
    half = y.astype(np.float16)
    np.testing.assert_array_equal(ExactIndex(half).search(x, 4)[1], ExactIndex(half.astype(np.float32)).search(x, 4)[1])


def test_the_index_keeps_its_own_copy(rng: np.random.Generator) -> None:
    y = rng.standard_normal((60, 16), dtype=np.float32)
    index = ExactIndex(y)
    before = index.search(y[:5].copy(), 3)
    queries = y[:5].copy()
    y[:] = 0
    np.testing.assert_array_equal(index.search(queries, 3)[0], before[0])


@pytest.mark.parametrize("first_pass", ["f32", "i8", "pca"])
@pytest.mark.parametrize("metric", METRICS)
def test_without_a_copy_the_vectors_are_referred_to(rng: np.random.Generator, metric: Metric, first_pass: Any) -> None:
    vectors, queries = rng.standard_normal((700, 64), np.float32), rng.standard_normal((9, 64), np.float32)
    kept = vectors.copy()
    own, lent = (ExactIndex(vectors, metric=metric, first_pass=first_pass, copy=c) for c in (True, False))
    for a, b in zip(own.search(queries, 5), lent.search(queries, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(own.knn_graph(3), lent.knn_graph(3), strict=True):
        np.testing.assert_array_equal(a, b)
    vectors[0, 0] = 7
    assert lent._state.store.vectors()[0, 0] == 7
    assert own._state.store.vectors()[0, 0] == kept[0, 0]
    vectors[:] = kept
    lent.add(queries)
    lent.remove(np.arange(5))
    np.testing.assert_array_equal(vectors, kept)
    vectors[:] = 0  # of its own since then
    exact = exact_scores(queries, np.concatenate([kept, queries]), metric)
    exact[:, :5] = -np.inf
    check(lent.search(queries, 5), exact, 5, metric)


def test_a_lent_array_lives_as_long_as_the_index(rng: np.random.Generator, tmp_path: Path) -> None:
    vectors, queries = rng.standard_normal((700, 64), np.float32), rng.standard_normal((9, 64), np.float32)
    exact = exact_scores(queries, vectors, "ip")
    seen = weakref.ref(vectors)
    index = ExactIndex(vectors, copy=False)
    del vectors
    gc.collect()
    assert seen() is not None
    check(index.search(queries, 5), exact, 5, "ip")
    index.save(tmp_path / "lent.simtile")
    del index
    gc.collect()
    assert seen() is None
    check(ExactIndex.load(tmp_path / "lent.simtile").search(queries, 5), exact, 5, "ip")


def test_what_comes_in_goes_out(rng: np.random.Generator) -> None:
    y, x = rng.standard_normal((60, 16), dtype=np.float32), rng.standard_normal((9, 16), dtype=np.float32)
    wanted = ExactIndex(y).search(x, 4)
    tensors = ExactIndex(torch.from_numpy(y))
    scores, ids = tensors.search(torch.from_numpy(x).requires_grad_(), 4)
    assert scores.dtype == torch.float32
    assert ids.dtype == torch.int64
    np.testing.assert_array_equal(ids.numpy(), wanted[1])
    np.testing.assert_array_equal(tensors.search(x, 4)[0], wanted[0])
    one_scores, one_ids = tensors.search(x[3], 4)
    np.testing.assert_array_equal(one_scores, wanted[0][3])
    np.testing.assert_array_equal(one_ids, wanted[1][3])
    bf16 = torch.from_numpy(x).bfloat16()
    np.testing.assert_array_equal(tensors.search(bf16, 4)[1].numpy(), tensors.search(bf16.float(), 4)[1].numpy())
    mask = torch.zeros(60, dtype=torch.bool)
    mask[7] = True
    assert tensors.search(torch.from_numpy(x), 1, filter=mask)[1].unique().tolist() == [7]


def test_torch_is_not_imported() -> None:
    program = """
import sys, numpy as np
from simtile.search import ExactIndex
ExactIndex(np.eye(4, dtype=np.float32)).search(np.eye(4, dtype=np.float32), 2)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_codes_are_dropped_where_the_bound_excludes_too_little(rng: np.random.Generator) -> None:
    clustered = (rng.standard_normal((4096, 64)) * 1e-4 + 1).astype(np.float32)
    assert ExactIndex(clustered).first_pass == "f32"
    spread = rng.standard_normal((4096, 64), dtype=np.float32)
    wanted = "i8" if ISAS[0] == "avx512_bf16" else "f32"
    assert ExactIndex(spread, metric="cosine").first_pass == wanted
    assert ExactIndex(clustered, first_pass="i8").first_pass == "i8"


GOOD = np.ones((4, 3), np.float32)


def with_value(value: float, row: int) -> NDArray[np.float32]:
    array = GOOD.copy()
    array[row, 1] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vectors": with_value(np.nan, 2)}, ValueError, "vectors.*row 2"),
        ({"vectors": with_value(np.inf, 3)}, ValueError, "vectors.*row 3"),
        ({"vectors": np.full((2, 3), 1e200)}, ValueError, "vectors.*row 0"),
        ({"vectors": GOOD[0]}, ValueError, "vectors: shape"),
        ({"vectors": GOOD[:, :0]}, ValueError, "vectors: at least 1 columns"),
        ({"vectors": GOOD.astype(np.int64)}, TypeError, "vectors: float16"),
        ({"vectors": GOOD.tolist()}, TypeError, "vectors: a NumPy array"),
        ({"metric": "dot"}, ValueError, "metric"),
        ({"first_pass": "i4"}, ValueError, "first_pass"),
        ({"item_scale": np.ones(3, np.float32)}, ValueError, "item_scale"),
        ({"item_bias": np.full(4, np.nan, np.float32)}, ValueError, "item_bias.*at 0"),
        ({"item_bias": np.ones(4, np.float32), "metric": "l2"}, ValueError, "item_bias.*l2"),
    ],
)
def test_a_wrong_item_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ExactIndex(**({"vectors": GOOD} | arguments))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": with_value(np.nan, 1)}, ValueError, "queries.*row 1"),
        ({"queries": np.ones((2, 4), np.float32)}, ValueError, "queries: 3 columns, got 4"),
        ({"queries": np.ones(2, np.float32)}, ValueError, "queries: 3 columns, got 2"),
        ({"queries": np.ones((2, 2, 3), np.float32)}, ValueError, "queries: shape"),
        ({"queries": torch.ones(2, 3, device="meta")}, TypeError, "queries: a tensor on the CPU"),
        ({"k": -1}, ValueError, "k: at least 0"),
        ({"k": 1.5}, TypeError, "k: an integer"),
        ({"num_threads": 0}, ValueError, "num_threads"),
        ({"filter": np.ones(3, bool)}, ValueError, "filter: a mask"),
        ({"filter": np.array([4])}, ValueError, "filter: ids"),
        ({"filter": np.ones(4)}, TypeError, "filter: integers"),
        ({"exclude": np.ones(4)}, TypeError, "exclude: a pair"),
        ({"exclude": (np.array([0, 1]), np.array([0]))}, ValueError, "indptr"),
        ({"exclude": (np.array([0, 1, 1, 1, 1]), np.array([9]))}, ValueError, "indices"),
    ],
)
def test_a_wrong_query_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ExactIndex(GOOD).search(**({"queries": GOOD, "k": 2} | arguments))


@pytest.mark.parametrize("metric", METRICS)
def test_copies_and_pickles_find_the_same(metric: Metric) -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32))
    bias = None if metric == "l2" else torch.arange(40.0)
    index = ExactIndex(vectors, metric=metric, item_bias=bias, first_pass="i8")
    for again in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert repr(again) == repr(index)
        for one, other in zip(again.search(vectors, 7), index.search(vectors, 7), strict=True):
            assert torch.equal(one, other)
        assert isinstance(again.knn_graph(1)[1], torch.Tensor)
