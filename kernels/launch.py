"""Which tile each kernel runs with: one table, keyed by architecture, operation and operand class.

The operand class says what a thread holds: "half" (bfloat16, float16) and "masked", the same with biases, ids, limits
or lists beside the scores; "guided", with a second tile of frozen scores; "tf32"; "ieee", float32 products on the
ordinary units. The width D is no key of the tile kernels: they walk along D, and no accumulator grows with it.

How the entries were chosen: ahead-of-time compilation (``python -m simtile.kernels.aot``), the largest tile without
register spills whose shared memory the target grants, because the bytes loaded per pair fall with 1/BLOCK_M +
1/BLOCK_N. No entry has been raced on a card; a file of tuned entries (:func:`load_tuned`) takes precedence.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    from simtile.kernels.pairs import Pairs

Precision = Literal["ieee", "tf32"]
Architecture = Literal["sm_80", "sm_90", "sm_100", "gfx942"]
Op = Literal[
    "pair_lse_fwd",
    "pair_lse_bwd",
    "pair_softplus",
    "pair_rank",
    "pair_topk",
    "pair_topk_few",
    "pair_stats",
    "nested_lse",
    "nested_grad",
    "row_grad_64",
    "row_grad_128",
    "row_grad_256",
]
Operands = Literal["half", "masked", "guided", "tf32", "ieee"]


# As all figures were taken. Triton 3.9 warns at a launch that leaves it open, and 3.10 turns it off by default.
FUSED = {"enable_fp_fusion": True}


@dataclass(frozen=True)
class Launch:
    """Tile sizes and compiler options of one kernel; ``group`` rows of tiles share the L2 cache."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group: int = 8

    @property
    def options(self) -> dict[str, int]:
        """Compiler options, as keyword arguments of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages, **FUSED}


# In the interpreter a program costs the same whatever its size: few, small tiles keep ragged edges in the tests.
INTERPRETER = Launch(32, 32, 32, 4, 1)

TABLE: dict[tuple[Architecture, Op, Operands], Launch] = {
    # 128 KB of float32 accumulators in 8 warps are half of all registers: the largest tile that leaves room for scores.
    # 256 x 128, not 128 x 256: a thread of a wgmma tile then holds half as many columns, hence half the column sums.
    ("sm_90", "pair_lse_fwd", "half"): Launch(256, 128, 64, 8, 4),
    # 128 x 128 spills 16 registers in 8 warps; in 16 warps Triton falls back from tcgen05 to mma.sync.
    ("sm_100", "pair_lse_fwd", "half"): Launch(256, 64, 64, 8, 3),
    # The running dot product stays alive beside the scores: half a tile fewer.
    ("sm_80", "nested_lse", "half"): Launch(128, 64, 32, 8, 4),
    ("sm_80", "nested_lse", "masked"): Launch(128, 64, 32, 8, 4),
    ("sm_80", "nested_lse", "tf32"): Launch(128, 64, 32, 8, 3),
    ("sm_90", "nested_lse", "half"): Launch(128, 64, 64, 8, 4),
    ("sm_90", "nested_lse", "masked"): Launch(128, 64, 64, 8, 4),
    # Lists of left-out pairs: 2 spills in 4 warps on sm_100, with triton 3.9 8 on sm_90.
    ("sm_90", "nested_lse", "ieee"): Launch(64, 64, 16, 8, 2),
    ("sm_100", "nested_lse", "ieee"): Launch(64, 64, 16, 8, 2),
    ("sm_100", "nested_lse", "half"): Launch(64, 64, 64, 8, 4),
    ("sm_100", "nested_lse", "masked"): Launch(64, 64, 64, 8, 4),
    ("sm_100", "nested_lse", "tf32"): Launch(64, 64, 32, 8, 3),
    # A left-out pair's comparison beside two log-sum-exps and two coefficients of 64 columns: 2 spills at 64 x 64.
    ("sm_90", "pair_lse_bwd", "ieee"): Launch(64, 32, 16, 4, 3),
}
"""Entries that differ from :data:`DEFAULTS`."""

# Without tensor cores the accumulators and both operands of a product live in registers.
_PLAIN = Launch(64, 64, 16, 4, 2)

DEFAULTS: dict[tuple[Architecture, Operands], Launch] = {
    ("sm_80", "half"): Launch(128, 128, 32, 8, 4),
    ("sm_80", "masked"): Launch(128, 128, 32, 8, 4),
    ("sm_80", "guided"): Launch(64, 64, 32, 4, 3),
    ("sm_80", "tf32"): Launch(128, 128, 32, 8, 3),
    ("sm_80", "ieee"): _PLAIN,
    ("sm_90", "half"): Launch(128, 128, 64, 8, 4),
    ("sm_90", "masked"): Launch(128, 128, 64, 8, 4),
    ("sm_90", "guided"): Launch(64, 64, 64, 8, 3),
    ("sm_90", "tf32"): Launch(128, 64, 32, 8, 3),
    ("sm_90", "ieee"): _PLAIN,
    ("sm_100", "half"): Launch(128, 64, 64, 8, 4),
    ("sm_100", "masked"): Launch(128, 64, 64, 8, 4),
    # 32 rows: two tcgen05 products in one kernel do not get through Triton 3.7's compiler, two mma.sync do.
    ("sm_100", "guided"): Launch(32, 64, 64, 4, 3),
    ("sm_100", "tf32"): Launch(128, 64, 32, 8, 3),
    ("sm_100", "ieee"): _PLAIN,
    ("gfx942", "half"): Launch(128, 128, 64, 8, 2),
    ("gfx942", "masked"): Launch(128, 128, 64, 8, 2),
    ("gfx942", "guided"): Launch(64, 64, 64, 4, 2),
    ("gfx942", "ieee"): Launch(64, 64, 16, 4, 2),
    ("gfx942", "tf32"): Launch(64, 64, 16, 4, 2),
}

# Two log-sum-exps, two coefficients and two norms of every column beside the running dot product.
TABLE |= {
    (architecture, "nested_grad", operands): Launch(32, 64, 16, 4, 3)
    if operands == "ieee"
    else Launch(64, 64, 64 if operands in {"half", "masked"} else 32, 8, 2)
    for architecture, operands in DEFAULTS
}
TABLE["sm_90", "nested_grad", "half"] = Launch(128, 64, 64, 8, 4)
TABLE["sm_90", "nested_grad", "ieee"] = Launch(32, 64, 16, 8, 3)
TABLE["sm_100", "nested_grad", "ieee"] = Launch(32, 64, 16, 8, 3)
# A program's rows and their gradient (BLOCK_M, D) stay in registers; the padded width D is a part of the key.
_ROW_GRAD: dict[Op, Launch] = {
    "row_grad_64": Launch(64, 64, 64, 4, 2),
    "row_grad_128": Launch(64, 64, 64, 4, 2),
    "row_grad_256": Launch(64, 32, 64, 4, 2),
}
_HALF: tuple[Operands, ...] = ("half", "masked")
TABLE |= {
    (architecture, op, operands): launch
    for architecture, _ in DEFAULTS
    for op, launch in _ROW_GRAD.items()
    for operands in _HALF
}

# pair_topk_few is for at most 16 rows, one matrix instruction high: reading y is all the work.
TABLE |= {
    (architecture, "pair_topk_few", operands): Launch(16, 128, 64 if operands in {"half", "masked"} else 32, 4, 3)
    for architecture, operands in DEFAULTS
}

TUNED_FILE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "simtile", "launches.json")
"""Where ``simtile tune`` writes and the first GPU job of a process looks."""

_tuned: dict[tuple[Architecture, Op, Operands], Launch] = {}


def entry(architecture: Architecture, op: Op, operands: Operands) -> Launch:
    """The launch of one key: tuned on a card, else from the table, else the default of its operands."""
    key = (architecture, op, operands)
    return _tuned.get(key) or TABLE.get(key) or DEFAULTS[architecture, operands]


def pick(op: Op, pairs: Pairs, *, crowded: bool = False) -> Launch:
    """The launch for a job on its device; ``crowded`` where a tile holds more than the job itself asks for.

    Tensors of the CPU run in Triton's interpreter.
    """
    x = pairs.x
    if not x.is_cuda:
        return INTERPRETER
    operands: Operands = precision(x)
    if pairs.guide is not None:
        operands = "guided"
    elif x.element_size() < 4:
        operands = "masked" if crowded or pairs.masked else "half"
    return entry(architecture_of(x.device), op, operands)


def architecture_of(device: torch.device) -> Architecture:
    """The table's nearest architecture at or below the device's."""
    if torch.version.hip is not None:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    # sm_120 has sm_80's tensor-core instructions and less shared memory than sm_90.
    return {9: "sm_90", 10: "sm_100", 11: "sm_100"}.get(major, "sm_80")  # type: ignore[return-value]


def precision(x: Tensor) -> Precision:
    """How float32 operands are multiplied: TF32 exactly where torch would use it; 16-bit operands ignore it."""
    return "tf32" if x.is_cuda and torch.get_float32_matmul_precision() != "highest" else "ieee"


def load_tuned(path: str | Path) -> None:
    """Reads entries that were raced on a card: ``{"sm_90 pair_lse_fwd half": {"block_m": 128, ...}}``.

    Raises ValueError for a key that names no entry, OSError if the file cannot be read.
    """
    read: dict[tuple[Architecture, Op, Operands], Launch] = {}
    for key, values in json.loads(Path(path).read_text()).items():
        words = key.split()
        known = (get_args(Architecture), get_args(Op), get_args(Operands))
        if len(words) != 3 or any(word not in names for word, names in zip(words, known, strict=True)):
            raise ValueError(f"{path}: a key is '<architecture> <op> <operands>' out of {known}, got {key!r}")
        read[words[0], words[1], words[2]] = Launch(**values)
    _tuned.update(read)


def save_tuned(path: str | Path, entries: dict[tuple[Architecture, Op, Operands], Launch]) -> None:
    """Writes what :func:`load_tuned` reads."""
    Path(path).write_text(json.dumps({" ".join(key): asdict(launch) for key, launch in entries.items()}, indent=1))
