"""An augmented gallery gives the corrected ranking in other engines, each where it is installed."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_vectors import real_pairs
from simtile.hubness import HubnessReducer

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "hubness" / "engines.py"
K = 10


@pytest.fixture(scope="module")
def engines() -> Any:
    spec = importlib.util.spec_from_file_location("engines", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engines"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corrected() -> dict[str, tuple[Any, Any, Any]]:
    """method -> (augmented gallery, augmented queries, the reducer's own ids)."""
    gallery, queries, bank = real_pairs(np.random.default_rng(3), 800, 30, 200)
    found = {}
    for method in ("inverted_softmax", "nicdm"):
        reducer = HubnessReducer(method).fit(gallery, query_bank=bank)  # type: ignore[arg-type]
        found[method] = (reducer.augment(), reducer.augment_queries(queries), reducer.search(queries, K)[1])
    return found


@pytest.mark.parametrize("method", ["inverted_softmax", "nicdm"])
@pytest.mark.parametrize(
    ("module", "engine", "on_disk"),
    [
        ("faiss", "in_faiss", False),
        ("hnswlib", "in_hnswlib", False),
        ("lancedb", "in_lancedb", True),
        ("pymilvus", "in_milvus_lite", True),
        ("sqlite_vec", "in_sqlite_vec", False),
    ],
)
def test_other_engines_rank_as_the_reducer_does(
    engines: Any, corrected: Any, tmp_path: Path, module: str, engine: str, on_disk: bool, method: str
) -> None:
    vectors, asking, own = corrected[method]
    with warnings.catch_warnings():
        # Deprecations inside of the engines are theirs.
        warnings.simplefilter("ignore")
        pytest.importorskip(module, exc_type=ImportError)
        if module == "pymilvus":
            pytest.importorskip("milvus_lite", exc_type=ImportError)
        if module == "sqlite_vec" and not hasattr(sqlite3.Connection, "enable_load_extension"):
            pytest.skip("this Python's sqlite3 loads no extensions")
        ids = getattr(engines, engine)(vectors, asking, K, *([tmp_path] if on_disk else []))
    overlap = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(ids, own, strict=True)])
    assert overlap >= (0.98 if module == "hnswlib" else 0.999)  # hnswlib's graph is approximate
    assert (ids[:, 0] == own[:, 0]).mean() >= (0.96 if module == "hnswlib" else 0.999)
