"""The contenders of `bench_search.py`: each builds its index as its documentation advises for some 50,000 unit vectors.

A search takes (queries, effort) and returns the ids of the `K` best. Effort is the breadth of a walk; of partitions it
decides how many are looked into, and of faiss's how many candidates are scored again in full.
Contenders but ours are raced where they are installed; none is needed otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench_search_exact import K

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Ids = NDArray[np.int64]
    Search = Callable[[Vectors, int], Ids]
    """(queries, effort) -> ids (M, K)"""

DEGREE = 32
"""Edges of a vertex, for everybody (HNSW's lowest level has twice its M)."""
BREADTH = 200
"""Candidates of each insertion: the value that hnswlib and faiss give in their examples; Vamana's is 100."""


def simtile(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from simtile.search import GraphIndex

    index = GraphIndex.build(base, num_threads=threads)
    return lambda queries, ef: index.search(queries, K, ef=ef, num_threads=threads)[1], index.graph_bytes


def hnswlib(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import hnswlib as library

    index = library.Index(space="ip", dim=base.shape[1])
    index.init_index(max_elements=len(base), M=DEGREE // 2, ef_construction=BREADTH)
    index.set_num_threads(threads)
    index.add_items(base)

    def search(queries: Vectors, ef: int) -> Ids:
        index.set_ef(ef)
        return index.knn_query(queries, K)[0].astype(np.int64)  # type: ignore[no-any-return]

    return search, index.index_file_size() - base.nbytes


def faiss(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import faiss as library

    library.omp_set_num_threads(threads)
    index = library.IndexHNSWFlat(base.shape[1], DEGREE // 2, library.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BREADTH
    index.add(base)

    def search(queries: Vectors, ef: int) -> Ids:
        index.hnsw.efSearch = ef
        return index.search(queries, K)[1]  # type: ignore[no-any-return]

    return search, len(library.serialize_index(index)) - base.nbytes


def usearch(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from usearch.index import Index

    index = Index(ndim=base.shape[1], metric="ip", dtype="f32", connectivity=DEGREE // 2, expansion_add=BREADTH)
    index.add(np.arange(len(base)), base, threads=threads)

    def search(queries: Vectors, ef: int) -> Ids:
        index.expansion_search = ef
        return index.search(queries, K, threads=threads).keys.astype(np.int64)

    return search, index.serialized_length - base.nbytes


def rabitqlib(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from rabitqlib import SymqgIndex

    index = SymqgIndex(base.shape[1], DEGREE, "l2")  # unit vectors: the same order
    index.build(base, BREADTH, threads)

    def search(queries: Vectors, ef: int) -> Ids:
        return index.search_batch(queries, K, ef, threads)[0].astype(np.int64)  # type: ignore[no-any-return]

    index.save(str(folder / "symqg"))
    return search, (folder / "symqg").stat().st_size - base.nbytes


def diskann(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import diskannpy

    # Unit vectors: cosine and inner product agree, and this metric skips the norms.
    index = diskannpy.AsyncDiskIndex(
        index_directory=str(folder), num_threads=threads, r=DEGREE, l=100, alpha=1.2, vector_dtype=np.float32,
        distance_metric="cosinenormalized", dimensions=base.shape[1], load_from_file=False, max_points=len(base) + 1,
    )  # fmt: skip
    index.batch_insert(np.arange(1, len(base) + 1, dtype=np.uint32), base, True, threads)

    def search(queries: Vectors, ef: int) -> Ids:
        return index.batch_search(queries, K, ef, threads).identifiers.astype(np.int64) - 1  # type: ignore[no-any-return]

    return search, len(base) * DEGREE * 4


def faiss_ivf(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import faiss as library

    library.omp_set_num_threads(threads)
    dim = base.shape[1]
    lists = _partitions(base)
    refined = library.index_factory(dim, f"IVF{lists},PQ{dim // 2}x4fs,RFlat", library.METRIC_INNER_PRODUCT)
    refined.train(base)
    refined.add(base)
    inner = library.extract_index_ivf(refined)

    def search(queries: Vectors, effort: int) -> Ids:
        inner.nprobe = _probes(effort, lists)
        refined.k_factor = effort / K
        return refined.search(queries, K)[1]  # type: ignore[no-any-return]

    return search, len(library.serialize_index(refined)) - base.nbytes


def scann(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from scann.scann_ops.py import scann_ops_pybind as library

    lists = _partitions(base)
    builder = library.builder(base, K, "dot_product").set_n_training_threads(threads)
    builder = builder.tree(lists, _probes(EFFORTS[0], lists), training_sample_size=len(base))
    index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()
    many = index.search_batched if threads == 1 else index.search_batched_parallel

    def search(queries: Vectors, effort: int) -> Ids:
        # Candidates scored in full grow with the effort: short codes alone end far below the recalls asked for.
        ids = many(queries, leaves_to_search=_probes(effort, lists), pre_reorder_num_neighbors=max(50, effort))[0]
        return ids.astype(np.int64)  # type: ignore[no-any-return]

    index.serialize(str(folder))
    return search, sum(file.stat().st_size for file in folder.iterdir()) - base.nbytes


def svs(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import svs as library

    parameters = library.VamanaBuildParameters(graph_max_degree=DEGREE, window_size=BREADTH)
    index = library.Vamana.build(parameters, base, library.DistanceType.MIP, num_threads=threads)
    index.num_threads = threads

    def search(queries: Vectors, ef: int) -> Ids:
        index.search_window_size = ef
        return index.search(queries, K)[0].astype(np.int64)  # type: ignore[no-any-return]

    return search, len(base) * DEGREE * 4


def ann_search(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from ann_search import QgIndex

    index: Any = QgIndex(n_neighbors=K, metric="cosine", degree=DEGREE, l_build=BREADTH // 2).fit(base)

    def search(queries: Vectors, ef: int) -> Ids:
        return index.kneighbors(queries, return_distance=False, ef_search=ef).astype(np.int64)  # type: ignore[no-any-return]

    index.save(folder / "qg")
    return search, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) - base.nbytes


def _partitions(base: Vectors) -> int:
    """sqrt(N) rounded to a power of two, scann's advice; 4 sqrt(N) was slower for both."""
    return int(2 ** round(np.log2(len(base) ** 0.5)))


def _probes(effort: int, lists: int) -> int:
    """A tenth of the effort: near the best of a few settings on the 384-dimensional vectors."""
    return min(lists, max(1, effort // 10))


EFFORTS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896)

CONTENDERS = {
    f.__name__: f for f in (simtile, hnswlib, faiss, faiss_ivf, usearch, rabitqlib, diskann, scann, svs, ann_search)
}
MODULES = {"diskann": "diskannpy", "faiss_ivf": "faiss"}
DISTRIBUTIONS = {
    "faiss": "faiss-cpu", "faiss_ivf": "faiss-cpu", "diskann": "diskannpy-rust", "svs": "scalable-vs",
    "ann_search": "ann-search",
}  # fmt: skip
