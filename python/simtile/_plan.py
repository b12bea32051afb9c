"""Which engine and which plan a job takes, why, and what it costs: :func:`explain`.

One unit ``u = 2 * M * N * D`` floating-point operations is one product of all pairs. A plan says how forward and
backward together visit the pairs:

    dense       store the scores (M, N): small problems                                             3u
    chunked     one-sided: a row's coefficient is known once its row is done, so gradients are
                made in the forward pass                                                            3u
    recompute   two-sided: log-sum-exps first, then all tiles again for the gradients               4u
    stash       two-sided bfloat16 inputs: the log-sum-exp pass leaves the scores in half precision   3u
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from simtile import _core
from simtile._cpu_engine import CpuEngine
from simtile._pairs import Scale, check_choice, traced
from simtile._torch_engine import TorchEngine, chunk_rows

if TYPE_CHECKING:
    from simtile._triton_engine import TritonEngine

    Engine: TypeAlias = CpuEngine | TorchEngine | TritonEngine

PLANS = ("auto", "dense", "chunked", "recompute", "stash")
OPS = ("pair_lse", "pair_nll", "pair_softplus", "info_nce", "sigmoid_loss")

_EMULATES_BFLOAT16 = _core.isas()[0] in ("avx2", "portable")

DENSE_PAIRS = {
    torch.float32: 1536 * 1536,
    torch.bfloat16: 32 * 32 if _EMULATES_BFLOAT16 else 2304 * 2304,
    torch.float16: 96 * 96,
}
"""On the CPU, up to this many pairs stored scores are as fast as tiles (benches/bench_small_batches.py, on a Zen 4).

Without AVX-512 torch's bfloat16 products are slower than tiles from 64 rows on, five times at 512 (that, on a Zen 3).
"""

GPU_DENSE_PAIRS = 1024 * 1024
"""The same on a GPU, not yet raced on one: a product of this size takes as long as a few launches of a kernel."""

DENSE_BYTES = 256 << 20
"""Where no tile engine runs (float64, other devices): scores up to this size are stored, larger ones made in chunks."""

WORKSPACE_BYTES = 16 << 20
"""Bound of an engine's buffer of coefficients."""

WHOLE_ROWS = 256 << 10
"""Up to this many columns a one-sided loss keeps 48 whole rows of scores, the engine's least, in about 50 MB."""

GPU_WHOLE_ROWS = {4: 131_072, 2: 87_381}
"""The same for the Triton kernels by the inputs' item size: 512 rows of scores, and of coefficients, in 256 MiB."""

STASH_BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}
"""``plan="auto"`` spends at most this much on a stash; ``explain(memory_budget=...)`` shows other budgets."""

OLDEST_TRITON = (3, 7)
"""The first version that the kernels are tested with."""

STASH_MAX_SCALE = 20.0
"""Half precision keeps 11 bits of a score: a coefficient is off by up to scale / 2048, here 1 %.

Rounding the coefficients to bfloat16 costs up to 0.4 % anyway; float16 and float32 inputs get better.
"""

_REASONS = {
    "asked": "asked for",
    "small": "the scores are small enough that storing them is as fast as tiles",
    "no_tiles": "no tile engine for this dtype and device, and the scores fit into {dense_bytes}",
    "one_sided": "one-sided, so gradients are made in the forward pass",
    "many_columns": "so many columns that rows of scores would not stay small: the tiles are computed twice",
    "two_sided": "two-sided: a column's log-sum-exp needs all rows, so the tiles are computed twice",
    "stash_fits": "two-sided, bfloat16 inputs, scale at most {max_scale:g}, and the stash fits into the memory budget",
    "stash_inexact": "a stash was asked for, but half-precision scores are too coarse above a scale of {max_scale:g}",
}


@dataclass(frozen=True)
class Plan:
    """How a job of one shape runs; ``print`` it."""

    op: str
    name: str
    engine: str
    """"Rust tiles", "Triton tiles" or "torch"."""
    engine_reason: str
    reason: str
    M: int
    N: int
    D: int
    dtype: torch.dtype
    device: torch.device
    units: float
    """FLOP of forward and backward in units of 2 * M * N * D."""
    extra_bytes: int
    """About the most that is allocated beside inputs and gradients."""

    @property
    def flop(self) -> int:
        """Floating-point operations of forward and backward."""
        return int(self.units * 2 * self.M * self.N * self.D)

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.op}  M={self.M:,} N={self.N:,} D={self.D:,}  {dtype} on {self.device}\n"
            f"  plan    {self.name}: {self.reason}\n"
            f"  engine  {self.engine}: {self.engine_reason}\n"
            f"  work    {self.units:g}u = {self.flop / 1e9:,.1f} GFLOP forward and backward\n"
            f"  memory  about {_megabytes(self.extra_bytes)} beside inputs and gradients "
            f"(stored scores would take {_megabytes(self.M * self.N * max(self.dtype.itemsize, 4))})"
        )


def decide(
    M: int, N: int, dtype: torch.dtype, device: torch.device, *, one_sided: bool, plan: str = "auto",
    scale: float | None = None, memory_budget: int | None = None, stashable: bool = True,
) -> tuple[str, str]:  # fmt: skip
    """(plan, key of the reason). ``scale`` None: unknown, a tensor that would have to be read."""
    tiles = has_tiles(dtype, device)
    if plan == "chunked" and not one_sided:
        raise ValueError(
            "plan: 'chunked' needs a reduced, one-sided loss; choose 'recompute', 'stash' or 'dense', got 'chunked'"
        )
    if plan == "stash":
        if not stashable or one_sided or dtype != torch.bfloat16 or not tiles:
            raise ValueError(
                f"plan: 'stash' is for two-sided log-sum-exps of bfloat16 inputs on tiles, got {dtype} on {device}"
            )
        return (
            ("recompute", "stash_inexact") if scale is not None and abs(scale) > STASH_MAX_SCALE else ("stash", "asked")
        )
    if plan != "auto":
        return plan, "asked"
    gpu = tiles and device.type == "cuda"
    if tiles and (GPU_DENSE_PAIRS if gpu else DENSE_PAIRS[dtype]) >= M * N:
        return "dense", "small"
    if not tiles and M * N * max(dtype.itemsize, 4) <= DENSE_BYTES:
        return "dense", "no_tiles"
    widest = GPU_WHOLE_ROWS[dtype.itemsize] if gpu else WHOLE_ROWS
    if one_sided and (widest >= N or not stashable):  # a coefficient of softplus needs no whole row
        return "chunked", "one_sided"
    if one_sided:
        return "recompute", "many_columns"
    budget = STASH_BYTES.get(device.type, 0) if memory_budget is None else memory_budget
    if (
        stashable
        and tiles
        and dtype == torch.bfloat16
        and scale is not None
        and abs(scale) <= STASH_MAX_SCALE
        and budget >= 2 * M * N
    ):
        return "stash", "stash_fits"
    return "recompute", "two_sided"


def choose(
    x: torch.Tensor, y: torch.Tensor, scale: Scale, *, one_sided: bool, plan: str, stashable: bool = True
) -> str:
    """The plan for a call. Only a stash asks how large the scale is, and only where looking costs nothing."""
    known: float | None = None
    if isinstance(scale, float):
        known = scale
    elif x.dtype == torch.bfloat16 and scale.device.type == "cpu" and not traced(x) and not traced(scale):
        known = scale.item()
    dtype, device = x.dtype, x.device
    return decide(
        x.shape[0], y.shape[0], dtype, device, one_sided=one_sided, plan=plan, scale=known, stashable=stashable
    )[0]  # fmt: skip


def has_tiles(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a tile engine computes this dtype on this device."""
    return tile_engine(dtype, device)[0] != "torch"


def tile_engine(dtype: torch.dtype, device: torch.device) -> tuple[str, str]:
    """(engine, why) of the plans that store no scores: "Rust tiles", "Triton tiles", or "torch" in chunks."""
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float64:
        return "torch", "float64 is computed by plain torch"
    if device.type == "cpu":
        return "Rust tiles", f"{name} on the CPU"
    if device.type == "cuda":
        version, fault = triton_state(device.index)
        return ("torch", fault) if fault else ("Triton tiles", f"{name} on {device}, triton {version}")
    return "torch", f"no tile engine for {device.type}"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def triton_state(index: int | None) -> tuple[str, str]:
    """(version of triton, what keeps its kernels from the GPU ``index`` or ""). A machine without any has no fault."""
    version, fault = _triton()
    if not fault and torch.cuda.is_available() and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(index)
        if major < 8:
            fault = f"the kernels need compute capability 8.0, this GPU has {major}.{minor}"
    return version, fault


@functools.cache
def _triton() -> tuple[str, str]:
    try:
        import triton as package
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return "", 'triton is not installed: pip install "simtile[triton]"'
        return "", f"triton is broken: {error}"
    except (ImportError, OSError) as error:  # a missing shared library
        return "", f"triton is broken: {error}"
    version = str(package.__version__)
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:
        return version, f"triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    return version, ""


def engine_for(x: torch.Tensor, N: int, plan: str) -> Engine:
    """The engine that carries out a plan on the device of ``x``: the only place that chooses one.

    Tiles run in Rust on the CPU and in Triton on a GPU. Everything else, every stored-scores plan among it, is plain
    torch.
    """
    if plan == "dense":
        return TorchEngine(x.shape[0])
    tiles, _ = tile_engine(x.dtype, x.device)
    if tiles == "Rust tiles":
        return CpuEngine(WORKSPACE_BYTES)
    if tiles == "Triton tiles":
        from simtile._triton_engine import gpu_engine

        return gpu_engine()
    return TorchEngine(chunk_rows(x.shape[0], N, max(x.dtype.itemsize, 4), WORKSPACE_BYTES))


def explain(
    op: Literal["pair_lse", "pair_nll", "pair_softplus", "info_nce", "sigmoid_loss"], M: int, N: int, D: int, *,
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", memory_budget: int | None = None,
    symmetric: bool = False, scale: float | None = None, plan: str = "auto", guide: int = 0,
) -> Plan:  # fmt: skip
    """Which plan a job takes, why, and what it costs. Computes nothing; ``print`` the result.

    Parameters
    ----------
    op : str      "pair_lse", "pair_nll", "pair_softplus", "info_nce" or "sigmoid_loss"
    M, N, D : int      rows of x, rows of y, their columns
    dtype, device      of the inputs
    memory_budget : int      bytes that a stash of scores may take; default 32 MiB on the CPU, 1 GiB on a GPU, what
        ``plan="auto"`` allows itself
    symmetric : bool      both directions (pair_lse, info_nce)
    scale : float      1 / temperature, where it is known: a stash needs at most 20
    plan : str      explain a choice of one's own instead of "auto"
    guide : int      columns of a guide's features, which are multiplied with every pass that makes scores

    Raises
    ------
    ValueError      an unknown op or plan, a plan that the op cannot take, a negative size

    Examples
    --------
    >>> print(explain("info_nce", 8192, 8192, 384).name)
    chunked
    """
    check_choice("op", op, OPS)
    check_choice("plan", plan, PLANS)
    for name, size in (("M", M), ("N", N), ("D", D), ("guide", guide)):
        if size < 0:
            raise ValueError(f"{name}: at least 0, got {size}")
    device = torch.device(device)
    one_sided = op in ("pair_nll", "pair_softplus", "sigmoid_loss") or (op == "info_nce" and not symmetric)
    name, why = decide(
        M, N, dtype, device, one_sided=one_sided, plan=plan, scale=scale, memory_budget=memory_budget,
        stashable=op not in ("pair_softplus", "sigmoid_loss"),
    )  # fmt: skip
    reason = _REASONS[why].format(max_scale=STASH_MAX_SCALE, dense_bytes=_megabytes(DENSE_BYTES))
    tiles, tiles_reason = tile_engine(dtype, device)
    stored = name == "dense" and tiles != "torch"
    engine, engine_reason = ("torch", "stored scores need no tiles") if stored else (tiles, tiles_reason)
    units, extra_bytes = _cost(name, engine, M, N, D, dtype)
    if guide:
        # The Rust engine's stash has the pairs left out already, that of the kernels holds inner products.
        again = name == "recompute" or (name == "stash" and engine == "Triton tiles")
        units += (2 if again else 1) * guide / max(D, 1)
        # Packed once more for tiles; its products are stored beside stored scores.
        extra_bytes += M * N * max(dtype.itemsize, 4) if name == "dense" else (M + N) * guide * dtype.itemsize
    return Plan(
        op=op,
        name=name,
        engine=engine,
        engine_reason=engine_reason,
        reason=reason,
        M=M,
        N=N,
        D=D,
        dtype=dtype,
        device=device,
        units=units,
        extra_bytes=extra_bytes,
    )


def _cost(name: str, engine: str, M: int, N: int, D: int, dtype: torch.dtype) -> tuple[float, int]:
    """(passes over the pairs in units u, extra bytes) of a plan."""
    units = 4 if name == "recompute" else 3
    wide = max(dtype.itemsize, 4)
    vectors = 4 * wide * (M + N)
    if name == "dense":
        return units, 2 * M * N * wide + vectors
    if engine == "Triton tiles":
        from simtile import _triton_engine

        narrow = name == "recompute" and _triton_engine.is_narrow(dtype, D)
        return 5 if narrow else units, _triton_engine.extra_bytes(name, M, N, D, dtype)
    if engine == "Rust tiles":  # operands again in panels, float32 sums of the gradients, the coefficients
        stash = 2 * M * N if name == "stash" else 0
        return units, (M + N) * D * (dtype.itemsize + 4) + WORKSPACE_BYTES + vectors + stash
    rows = chunk_rows(M, N, wide, WORKSPACE_BYTES)
    return units, 3 * rows * N * wide + (M + N) * D * (wide - dtype.itemsize) + vectors


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 10**9 and math.isfinite(size) else f"{size / 1e9:,.1f} GB"
