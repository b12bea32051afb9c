"""A corrected gallery in the search engine that you already run: plain vectors of d + 1, ranked by inner product.

    reducer = HubnessReducer("nnn", k=128).fit(gallery, query_bank=bank)
    vectors, asking = reducer.augment(), reducer.augment_queries(queries)

Each function loads the vectors into one engine and returns its ids (M, k). The engine knows nothing of the correction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


def in_faiss(vectors: Vectors, asking: Vectors, k: int) -> Ids:
    """pip install faiss-cpu"""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])  # or any other index with METRIC_INNER_PRODUCT
    index.add(vectors)
    return np.asarray(index.search(asking, k)[1])


def lifted(vectors: Vectors, asking: Vectors) -> tuple[Vectors, Vectors]:
    """One more coordinate, √(R² - |v|²) with R the longest vector: then all have the length R.

    The nearest by Euclidean distance are the largest by inner product, for engines that know distances alone and for
    graphs that need a metric. Bachrach et al. 2014, RecSys.
    """
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    lift = np.sqrt(squares.max() - squares).astype(np.float32)[:, None]
    return np.hstack([vectors, lift]), np.hstack([asking, np.zeros_like(asking[:, :1])])


def in_hnswlib(vectors: Vectors, asking: Vectors, k: int) -> Ids:
    """pip install hnswlib"""
    import hnswlib

    stored, asked = lifted(vectors, asking)
    index = hnswlib.Index(space="l2", dim=stored.shape[1])
    # Wide: the lift sets some items apart, to which a narrow construction leaves hardly an edge.
    index.init_index(max_elements=len(stored), ef_construction=800, M=32)
    index.add_items(stored, np.arange(len(stored)), num_threads=1)
    index.set_ef(max(400, 4 * k))
    return index.knn_query(asked, k=k, num_threads=1)[0].astype(np.int64)


def in_lancedb(vectors: Vectors, asking: Vectors, k: int, folder: Path) -> Ids:
    """pip install lancedb"""
    import lancedb

    table = lancedb.connect(folder).create_table(
        "items", data=[{"id": i, "vector": v} for i, v in enumerate(vectors)], mode="overwrite"
    )
    found: list[Any] = [table.search(q).distance_type("dot").limit(k).to_list() for q in asking]
    return np.array([[row["id"] for row in rows] for rows in found], np.int64)


def in_milvus_lite(vectors: Vectors, asking: Vectors, k: int, folder: Path) -> Ids:
    """pip install "pymilvus[milvus_lite]" """
    from pymilvus import MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    client.create_collection("items", dimension=vectors.shape[1], metric_type="IP")
    client.insert("items", [{"id": i, "vector": v.tolist()} for i, v in enumerate(vectors)])
    found = client.search("items", data=asking.tolist(), limit=k)
    client.close()
    return np.array([[hit["id"] for hit in hits] for hits in found], np.int64)


def in_sqlite_vec(vectors: Vectors, asking: Vectors, k: int) -> Ids:
    """pip install sqlite-vec"""
    import sqlite3

    import sqlite_vec

    stored, asked = lifted(vectors, asking)
    database = sqlite3.connect(":memory:")
    database.enable_load_extension(True)
    sqlite_vec.load(database)
    database.enable_load_extension(False)
    database.execute(f"CREATE VIRTUAL TABLE items USING vec0(vector float[{stored.shape[1]}])")
    rows = [(i, v.tobytes()) for i, v in enumerate(stored)]
    database.executemany("INSERT INTO items(rowid, vector) VALUES (?, ?)", rows)
    query = "SELECT rowid FROM items WHERE vector MATCH ? ORDER BY distance LIMIT ?"
    found = [[row[0] for row in database.execute(query, (q.tobytes(), k))] for q in asked]
    database.close()
    return np.array(found, np.int64)
