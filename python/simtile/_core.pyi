"""The CPU tile engine. Internal: arguments are checked by the public layer, and once more here with typed errors.

Matrices are C-contiguous, float32 or uint16 (the bits of bfloat16), both of the same dtype; gradients come
back in that dtype.
s_ij = scale * <x_i, y_j> + x_bias_i + y_bias_j; M, N, D are the rows of ``x``, the rows of ``y``, the columns of both.

Pairs, the same in every function:
    x_ids, y_ids     int64 (M,), (N,): pairs of equal ids are left out ("exclude"), alone kept ("only") or have their
                     sign turned ("flip", softplus only)
    indptr, indices  int64 CSR (M + 1,), (nnz,): columns left out per row, sorted within a row
    diagonal         pairs (i, i): "keep", "skip", "flip" (softplus only), or "above": only pairs of j > i take part
    threshold        float32 (M,): pairs of row i whose score is above threshold[i] are left out
    guide_x, guide_y (M, G), (N, G), float32 or bfloat16 bits: <guide_x_i, guide_y_j> is compared instead of the score
Run: num_threads >= 1 (results do not depend on it); isa None (best) or one of ``isas()``.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

_F32: TypeAlias = NDArray[np.float32]
_F64: TypeAlias = NDArray[np.float64]
_I64: TypeAlias = NDArray[np.int64]
_Matrix: TypeAlias = NDArray[np.float32] | NDArray[np.uint16]
_IdsMode: TypeAlias = Literal["exclude", "only", "flip"]
_Diagonal: TypeAlias = Literal["keep", "skip", "flip", "above"]

__all__ = [
    "ExactStore",
    "GraphStore",
    "IndexFileError",
    "__version__",
    "facility_dense",
    "facility_lists",
    "facility_vectors",
    "importance",
    "isas",
    "nested_grad",
    "nested_lse",
    "nested_nll",
    "pair_dot",
    "pair_grad",
    "pair_lse",
    "pair_nll",
    "pair_rank",
    "pair_scores",
    "pair_softplus",
    "pair_stats",
    "pair_topk",
]

__version__: str

def isas() -> list[str]:
    """Instruction sets that this processor can run, best first: "avx512_bf16", "avx512", "avx2", "neon", "portable"."""

def pair_dot(x: _Matrix, y: _Matrix, scale: float, *, num_threads: int = 1) -> _F32:
    """s_ii = scale * <x_i, y_i> for i < min(M, N), summed in float64."""

def pair_lse(
    x: _Matrix,
    y: _Matrix,
    scale: float,
    *,
    want_row: bool = True,
    want_column: bool = False,
    want_stash: bool = False,
    x_bias: _F32 | None = None,
    y_bias: _F32 | None = None,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_F32 | None, _F32 | None, NDArray[np.uint16] | None]:
    """Natural log-sum-exp of rows (M,) and/or columns (N,) in one pass; -inf where every pair is left out.

    The stash is <x_i, y_j> (M, N) as float16 bits, unscaled, for ``pair_grad``.
    """

def nested_lse(
    x: _Matrix,
    y: _Matrix,
    dims: Sequence[int],
    scale: float,
    *,
    normalize: bool = True,
    want_row: bool = True,
    want_column: bool = False,
    want_own: bool = False,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_F32 | None, _F32 | None, _F32 | None]:
    """Log-sum-exp of rows (K, M) and/or columns (K, N), and own scores (K, min(M, N)), of each prefix of the columns.

    dims: the prefixes' ends, ascending; scores are scale * <x_i, y_j> over a prefix, of rows divided by its norms where
    ``normalize`` says so. One sweep over the coordinates for all.
    """

def nested_grad(
    x: _Matrix,
    y: _Matrix,
    dims: Sequence[int],
    scale: float,
    *,
    normalize: bool = True,
    row_lse: _F32 | None = None,
    row_grad: _F32 | None = None,
    column_lse: _F32 | None = None,
    column_grad: _F32 | None = None,
    diagonal_grad: _F32 | None = None,
    want_x: bool = True,
    want_y: bool = True,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    workspace_bytes: int = ...,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_Matrix | None, _Matrix | None, float]:
    """(dX, dY, dscale) as of ``pair_grad``, summed over the prefixes; all vectors are (K, .). One loss's work."""

def nested_nll(
    x: _Matrix,
    y: _Matrix,
    dims: Sequence[int],
    scale: float,
    weight: _F32,
    *,
    normalize: bool = True,
    want_x: bool = True,
    want_y: bool = True,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    workspace_bytes: int = ...,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_F32, _Matrix | None, _Matrix | None, float]:
    """(loss (K, M), dX, dY, dscale): log(1 + exp(lse_ki - s_kii)), gradients of Σ weight_ki loss_ki on the way.

    Leave the diagonal out of the log-sum-exp: diagonal "skip". Needs N >= M.
    """

def pair_grad(
    x: _Matrix,
    y: _Matrix,
    scale: float,
    *,
    row_lse: _F32 | None = None,
    row_grad: _F32 | None = None,
    column_lse: _F32 | None = None,
    column_grad: _F32 | None = None,
    diagonal_grad: _F32 | None = None,
    stash: NDArray[np.uint16] | None = None,
    want_x: bool = True,
    want_y: bool = True,
    want_x_bias: bool = False,
    want_y_bias: bool = False,
    x_bias: _F32 | None = None,
    y_bias: _F32 | None = None,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    workspace_bytes: int = ...,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_Matrix | None, _Matrix | None, float, _F32 | None, _F32 | None]:
    """(dX, dY, dscale, dx_bias, dy_bias) of Σ row_grad row_lse + Σ column_grad column_lse + Σ diagonal_grad s_ii.

    dL/ds_ij = P_ij = row_grad_i e^(s_ij - row_lse_i) + column_grad_j e^(s_ij - column_lse_j) on kept pairs, plus
    diagonal_grad_i (min(M, N),) on (i, i) whether kept or not. dscale needs want_x or want_y, otherwise it is 0.
    Workspace at most ``workspace_bytes`` beyond packed operands.
    """

def pair_nll(
    x: _Matrix,
    y: _Matrix,
    scale: float,
    *,
    link: Literal["lse", "softplus"],
    weight: _F32 | None = None,
    target: _F32 | None = None,
    want_x: bool = True,
    want_y: bool = True,
    want_x_bias: bool = False,
    want_y_bias: bool = False,
    x_bias: _F32 | None = None,
    y_bias: _F32 | None = None,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    workspace_bytes: int = ...,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_F32, _F32, _F32, _Matrix | None, _Matrix | None, float, _F32 | None, _F32 | None]:
    """(loss (M,), lse (M,), coefficient (M,), dX, dY, dscale, dx_bias, dy_bias), the gradients of Σ_i weight_i loss_i.

    Made in the forward pass (3u). loss_i = link(lse_i - t_i), link "lse": identity, "softplus": log(1 + e^z). t_i is
    ``target`` (M,), taken as a constant (its gradient is -coefficient), or, when None, the pair's own partner s_ii
    (needs N >= M), whose gradient is part of dX, dY, dscale and the biases.
    coefficient_i = weight_i link'(lse_i - t_i). A row that keeps no pair has lse -inf, and loss 0 and coefficient 0.
    """

def pair_softplus(
    x: _Matrix,
    y: _Matrix,
    scale: float,
    *,
    weight: _F32 | None = None,
    want_x: bool = True,
    want_y: bool = True,
    want_x_bias: bool = False,
    want_y_bias: bool = False,
    x_bias: _F32 | None = None,
    y_bias: _F32 | None = None,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    workspace_bytes: int = ...,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_F32, _Matrix | None, _Matrix | None, float, _F32 | None, _F32 | None]:
    """(rows (M,), dX, dY, dscale, dx_bias, dy_bias): rows_i = Σ_j softplus(z_ij s_ij), gradients of Σ weight_i rows_i.

    z_ij = -1 for flipped pairs (the positives of SigLIP), else 1. 1u without gradients, else 3u.
    """

def pair_rank(
    x: _Matrix,
    y: _Matrix,
    scale: float,
    target: _F32 | None = None,
    *,
    x_bias: _F32 | None = None,
    y_bias: _F32 | None = None,
    x_ids: _I64 | None = None,
    y_ids: _I64 | None = None,
    ids_mode: _IdsMode = "exclude",
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    threshold: _F32 | None = None,
    guide_x: _Matrix | None = None,
    guide_y: _Matrix | None = None,
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_I64, _I64]:
    """Per row the number of kept pairs with s_ij > target_i, and with s_ij == target_i.

    target None: the pair's own s_ii, by the same kernel.
    """

def pair_scores(x: _Matrix, y: _Matrix, scale: float = 1.0, *, num_threads: int = 1, isa: str | None = None) -> _F32:
    """s_ij = scale * <x_i, y_j> (M, N), for blocks: a pair's bits depend on its two vectors alone."""

def pair_topk(
    x: _Matrix,
    y: _Matrix,
    k: int,
    *,
    y_scale: _F32 | None = None,
    y_bias: _F32 | None = None,
    indptr: _I64 | None = None,
    indices: _I64 | None = None,
    diagonal: _Diagonal = "keep",
    num_threads: int = 1,
    isa: str | None = None,
) -> tuple[_F32, _I64]:
    """The k largest y_scale_j <x_i, y_j> + y_bias_j of each row, in float32, and their columns: (M, k) each.

    Equal scores: the smaller column first; padded with -inf and -1. A bias of -inf leaves a column out; any other value
    that is not finite is a ValueError. diagonal "keep" or "skip".
    """

def pair_stats(
    bank: _Matrix, y: _Matrix, betas: Sequence[float], k: int, *, num_threads: int = 1, isa: str | None = None
) -> tuple[_F64, _F64, _F64, _F32]:
    """(lse (len(betas), Ny), mean (Ny,), variance (Ny,), top (k, Ny)) of <bank_i, y_j> over the rows i of the bank.

    lse[b] = log Σ_i exp(betas[b] s_ij), -inf for an empty bank; the variance is the population's; top holds the k
    largest scores in descending order, padded with -inf, so that statistics of parts of a bank merge.
    """

def importance(ids: _I64, utilities: _F64, weights: _F64, k: int, *, num_threads: int = 1) -> tuple[_F64, _F64]:
    """(values (Q,), gradient (N,)) of the expected mean utility of the first k retrieved items that are there.

    ids (Q, M): best first, padded with -1, no item twice; utilities (Q, M); weights (N,): probabilities to be there.
    The gradient is that of the sum of all values.
    """

def facility_vectors(
    vectors: _F32, bias: _F32, unit: float, size: int, *, num_threads: int = 1, isa: str | None = None
) -> tuple[_I64, _F64, _I64]:
    """(ids (size,), gains (size,), owners (N,)): lazy greedy facility location.

    s_ij = unit <x_i, x_j> + bias_i + bias_j; bias (N,) has to make all of them at least 0.
    owners: place among the chosen, of the most similar one.
    """

def facility_dense(similarity: _F32, size: int) -> tuple[_I64, _F64, _I64]:
    """As ``facility_vectors``, of a matrix (candidates, items) of values of at least 0; owner -1 where all are 0."""

def facility_lists(ids: _I64, scores: _F32, self_similarity: float, size: int) -> tuple[_I64, _F64, _I64]:
    """As ``facility_dense``, of the matrix of scores of neighbours (N, k) and self_similarity on its diagonal."""

@final
class ExactStore:
    """Vectors (N, D), copied and prepared for exact search: a first pass over 8-bit codes (``codes``) or in float32.

    Without ``copy`` they are referred to, and must not change.

    directions (D, D), with codes: orthonormal rows, along which codes are taken. leading: how many of them stay in
    float32 (at most 2) and how many of the next are multiplied for all pairs.
    metric "ip": item_scale_j <x, y_j> + item_bias_j; "cosine": the same of the cosine; "l2": the squared distance.
    """

    def __new__(
        cls,
        vectors: _F32,
        *,
        metric: Literal["ip", "cosine", "l2"] = "ip",
        codes: bool = True,
        directions: _F32 | None = None,
        leading: tuple[int, int] | None = None,
        item_scale: _F32 | None = None,
        item_bias: _F32 | None = None,
        copy: bool = True,
        num_threads: int = 1,
        isa: str | None = None,
    ) -> Self: ...
    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)"""

    @property
    def metric(self) -> Literal["ip", "cosine", "l2"]: ...
    @property
    def codes(self) -> bool: ...
    @property
    def leading(self) -> tuple[int, int] | None:
        """How many directions the first pass takes in float32 and how many as codes; None: it takes all coordinates."""

    @property
    def affine(self) -> tuple[_F32 | None, _F32 | None]:
        """(item_scale, item_bias), copies."""

    def vectors(self) -> _F32:
        """A copy (N, D) of them."""

    def save(self, path: str, ids: _I64 | None, next_id: int) -> None:
        """Write to one file, with the ids of the rows (rising; None: their numbers)."""

    @staticmethod
    def load(
        path: str, *, verify: bool = True, num_threads: int = 1, isa: str | None = None
    ) -> tuple[ExactStore, _I64 | None, int]:
        """(store, ids, next_id) of a file; raises OSError, IndexFileError."""

    def search(
        self,
        queries: _F32,
        k: int,
        *,
        filter: NDArray[np.uint8] | None = None,
        indptr: _I64 | None = None,
        indices: _I64 | None = None,
        num_threads: int = 1,
        isa: str | None = None,
    ) -> tuple[_F32, _I64, int]:
        """(scores (M, k), ids (M, k), number of exact scores taken), best first, in float64 order, equal scores by id.

        filter (N,): 0 where an item may not be returned. indptr, indices: items that a query may not return.
        """

    def search_f64(
        self, queries: _F32, k: int, *, num_threads: int = 1, isa: str | None = None
    ) -> tuple[NDArray[np.float64], _I64]:
        """As ``search``, the scores in float64: what merging the results of several stores needs."""

    def neighbours(self, k: int, *, num_threads: int = 1, isa: str | None = None) -> tuple[_F32, _I64, int]:
        """As ``search`` for all of its own vectors (N, k), each left out of its own list."""

    def stats(
        self, rows: _F32, betas: Sequence[float], k: int, *, num_threads: int = 1, isa: str | None = None
    ) -> tuple[_F64, _F64, _F64, _F32]:
        """As ``pair_stats`` of the rows' scores with all vectors, from the first pass alone.

        Over codes, scores are some 1/2000 of the norms off. Not for squared distances, nor for codes along directions.
        """

    def within(
        self,
        queries: _F32,
        bound: float,
        *,
        filter: NDArray[np.uint8] | None = None,
        num_threads: int = 1,
        isa: str | None = None,
    ) -> tuple[_I64, _F32, _I64]:
        """CSR (indptr (M + 1,), scores, ids): scores of at least ``bound`` (squared distances: at most), best first."""

class IndexFileError(ValueError):
    """A file that is not a whole index of a known version."""

@final
class GraphStore:
    """Vectors (N, D), copied, and a graph of them. Searches may run at once; a change excludes everything else."""

    def __new__(
        cls,
        vectors: _F32,
        *,
        metric: Literal["ip", "cosine", "l2"] = "ip",
        degree: int = 48,
        breadth: int = 128,
        seed: int = 0,
        num_threads: int = 1,
        isa: str | None = None,
    ) -> Self: ...
    @staticmethod
    def load(path: str, *, verify: bool = True) -> GraphStore: ...
    def __len__(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def graph_bytes(self) -> int:
        """Bytes besides the vectors."""

    @property
    def next_id(self) -> int: ...
    @property
    def metric(self) -> Literal["ip", "cosine", "l2"]: ...
    def ids(self) -> _I64:
        """Of all items, rising."""

    def vectors(self, ids: _I64) -> _F32: ...
    def search(
        self,
        queries: _F32,
        k: int,
        ef: int,
        *,
        filter: NDArray[np.uint8] | None = None,
        exact: bool = False,
        num_threads: int = 1,
        isa: str | None = None,
    ) -> tuple[_F32, _I64]:
        """(scores (M, k), ids (M, k)), best first by float64 scores, equal scores by id. filter: by id."""

    def add(self, vectors: _F32, *, num_threads: int = 1, isa: str | None = None) -> int:
        """The first of the new ids."""

    def remove(self, ids: _I64, *, num_threads: int = 1, isa: str | None = None) -> None: ...
    def compact(self) -> None: ...
    def save(self, path: str) -> None: ...
