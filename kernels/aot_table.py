"""The cases that :mod:`simtile.kernels.aot` compiles: which kernels, with which operands, for which targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from simtile.kernels.launch import Architecture, Launch, Op, Operands, entry
from simtile.kernels.nested_grad import _nested_grad_kernel, _suffix_sum_kernel
from simtile.kernels.nested_lse import _nested_lse_fix_kernel, _nested_lse_fwd_kernel
from simtile.kernels.pair_grad import _pair_grad_kernel
from simtile.kernels.pair_lse import _pair_lse_fix_kernel, _pair_lse_fwd_kernel
from simtile.kernels.pair_rank import _pair_rank_kernel
from simtile.kernels.pair_softplus import _pair_softplus_kernel
from simtile.kernels.pair_stats import _pair_stats_kernel
from simtile.kernels.pair_topk import GROUPED, _group_max_kernel, _rescore_kernel
from simtile.kernels.partial_sums import _lse_reduce_kernel
from simtile.kernels.row_grad import _row_grad_kernel, row_grad_op
from simtile.kernels.tile import Terms

# Pointers by operand class. float16 compiles as bfloat16 does, but for the name of the instruction.
_ELEMENT: dict[Operands, str] = {
    "half": "*bf16",
    "masked": "*bf16",
    "tf32": "*fp32",
    "ieee": "*fp32",
    "guided": "*bf16",
}
_PLAIN = Terms(scale="*fp32")
_IDS = _PLAIN._replace(x_bias="*fp32", y_bias="*fp32", x_ids="*i64", y_ids="*i64")
_LISTS = _PLAIN._replace(skip="i32", list_ptr="*i32", list_row="*i32", list_col="*i32")
_GUIDED = _PLAIN._replace(skip="i32", threshold="*fp32", guide_x="*bf16", guide_y="*bf16", guide_dim="i32")
_THRESHOLD = _PLAIN._replace(skip="i32", threshold="*fp32")
_SKIP = _PLAIN._replace(skip="i32")
_RULES: dict[str, dict[str, Any]] = {
    "ids": {"terms": _IDS},
    "only": {"terms": _IDS, "IDS_MODE": "only"},
    "lists": {"terms": _LISTS},
    "threshold": {"terms": _THRESHOLD},
}
"""Arguments that leave pairs out, beside those of a plain job."""
_CLASSES: tuple[Operands, ...] = ("half", "tf32", "ieee")
_ARCHITECTURES: tuple[Architecture, ...] = ("sm_80", "sm_90", "sm_100", "gfx942")


@dataclass(frozen=True)
class Case:
    """One compilation. ``arguments`` maps each parameter to a type ("*bf16", "i32") or to a constant."""

    name: str
    kernel: Any
    architecture: Architecture
    launch: Launch
    arguments: dict[str, Any]
    representative: bool = False
    tensor_core: bool = True
    exponentials: float | None = None  # at most this many per element
    rows: int | None = None  # of the products; None: those of the tile
    divisible: tuple[str, ...] = ("D", "stride_x", "stride_y", "stride_out")  # by 16, as the usual D is


def cases() -> Iterator[Case]:
    """All cases, in the order of the table that is printed."""
    for architecture in _ARCHITECTURES:
        yield from _lse_cases(architecture)
        yield from _grad_cases(architecture)
        yield from _row_grad_cases(architecture)
        yield from _softplus_cases(architecture)
        yield from _nested_cases(architecture)
        yield from _topk_cases(architecture)
        yield from _count_cases(architecture)


def _held(operands: Operands, masked: bool) -> Operands:
    """The operand class that :func:`simtile.kernels.launch.pick` would look up."""
    return "masked" if masked and operands == "half" else operands


def _tile(launch: Launch, operands: Operands, **more: Any) -> dict[str, Any]:
    """The arguments that all tile kernels share."""
    return {
        "x": _ELEMENT[operands],
        "y": _ELEMENT[operands],
        "terms": _PLAIN,
        "M": "i32",
        "N": "i32",
        "D": "i32",
        "stride_x": "i32",
        "stride_y": "i32",
        "diagonal": "i32",
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
        "BLOCK_K": launch.block_k,
        "GROUP": launch.group,
        "IDS_MODE": "exclude",
        "PRECISION": "tf32" if operands == "tf32" else "ieee",
        **more,
    }


def _case(
    op: Op, variant: str, kernel: Any, architecture: Architecture, operands: Operands, arguments: Any, **flags: Any
) -> Case:
    launch = entry(architecture, op, operands)
    wanted = set(kernel.arg_names)
    given = {name: value for name, value in _tile(launch, operands, **arguments).items() if name in wanted}
    name = " ".join((architecture, op, operands, variant)).rstrip()
    return Case(name, kernel, architecture, launch, given, tensor_core=operands != "ieee", **flags)


def _variants(plain: dict[str, dict[str, Any]], masked: dict[str, Any]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """(name, whether it is masked, arguments) of a kernel: its own variants, and one with each rule in use."""
    for name, arguments in plain.items():
        yield name, arguments.get("stash") is not None, arguments
    for name, rule in _RULES.items():
        yield name, True, {**masked, **rule}


def _lse_cases(architecture: Architecture) -> Iterator[Case]:
    sums: dict[str, Any] = {"row_sum": "*fp32", "column_sum": "*fp32", "tile_max": "*fp32"}
    both = {**sums, "stash": None, "stride_stash": "i32", "own": None}
    row = {**both, "column_sum": None, "own": "*fp32", "terms": _SKIP}
    plain = {"both": {**both, "own": "*fp32", "terms": _SKIP}, "row": row, "column": {**both, "row_sum": None}}
    plain["row, stash"] = {**row, "stash": "*fp32"}
    stashed = {**plain["both"], "stash": "*fp16"}  # the plan "stash" of two-sided losses, for bfloat16 only
    for operands in _CLASSES:
        if operands == "half":
            yield _case(
                "pair_lse_fwd", "both, stash", _pair_lse_fwd_kernel, architecture, "masked", stashed, exponentials=1.0
            )
        for variant, masked, arguments in _variants(plain, both):
            yield _case(
                "pair_lse_fwd", variant, _pair_lse_fwd_kernel, architecture, _held(operands, masked), arguments,
                representative=operands == "half" and variant in {"both", "ids"},
                exponentials=1.0,
            )  # fmt: skip
        for variant, terms in (("fix", _IDS), ("fix lists", _LISTS)):
            fix = {**sums, "terms": terms}
            yield _case("pair_lse_fwd", variant, _pair_lse_fix_kernel, architecture, _held(operands, True), fix)
    guided = {**both, "terms": _GUIDED}
    yield _case("pair_lse_fwd", "guide", _pair_lse_fwd_kernel, architecture, "guided", guided)
    yield _case("pair_lse_fwd", "fix guide", _pair_lse_fix_kernel, architecture, "guided", {**sums, "terms": _GUIDED})
    launch = Launch(1, entry(architecture, "pair_lse_fwd", "half").block_n, 1, 4, 3)
    arguments = {
        "partials": "*fp32", "tile_max": "*fp32", "lse": "*fp32", "count": "i32", "length": "i32",
        "max_stride_partial": "i32", "max_stride_block": "i32", "TILE": launch.block_n, "BLOCK_R": 16,
    }  # fmt: skip
    yield Case(
        f"{architecture} pair_lse_fwd reduce", _lse_reduce_kernel, architecture, launch, arguments, tensor_core=False
    )


def _grad_cases(architecture: Architecture) -> Iterator[Case]:
    for operands in _CLASSES:
        row = {"row_lse": "*fp32", "row_coef": "*fp32", "column_lse": None, "column_coef": None, "diagonal_coef": None}
        row |= {"stash": None, "stride_stash": "i32", "stride_out": "i32", "out": _ELEMENT[operands]}
        both = {**row, "column_lse": "*fp32", "column_coef": "*fp32"}
        plain: dict[str, dict[str, Any]] = {
            "both": both,
            "row": row,
            "column": {**both, "row_lse": None, "row_coef": None},
            "both, diagonal": {**both, "terms": _SKIP, "diagonal_coef": "*fp32"},
        }
        for variant, masked, arguments in _variants(plain, both):
            yield _case(
                "pair_lse_bwd", variant, _pair_grad_kernel, architecture, _held(operands, masked), arguments,
                representative=operands == "half" and variant in {"both, diagonal", "ids"},
            )  # fmt: skip
        stashes = {"row, stash": {**row, "stash": "*fp32"}}
        if operands == "half":
            stashes["both, stash"] = {**plain["both, diagonal"], "stash": "*fp16"}
        for variant, arguments in stashes.items():
            stashed = _case("pair_lse_bwd", variant, _pair_grad_kernel, architecture, operands, arguments)
            yield Case(**{**stashed.__dict__, "tensor_core": False})
    guided = {**both, "terms": _GUIDED, "out": "*bf16"}
    yield _case("pair_lse_bwd", "guide", _pair_grad_kernel, architecture, "guided", guided)


def _row_grad_cases(architecture: Architecture) -> Iterator[Case]:
    coefficients = {"row_lse": "*fp32", "row_coef": "*fp32", "column_lse": "*fp32", "column_coef": "*fp32"}
    for width in (64, 128, 256):
        both = {**coefficients, "diagonal_coef": "*fp32", "out": "*fp32", "terms": _SKIP, "BLOCK_D": width}
        op = row_grad_op(width)
        yield _case(op, "both", _row_grad_kernel, architecture, "half", both, representative=True)
        yield _case(op, "ids", _row_grad_kernel, architecture, "masked", {**both, "terms": _IDS})


def _softplus_cases(architecture: Architecture) -> Iterator[Case]:
    flip = {"terms": _PLAIN._replace(x_bias="*fp32", flip="i32")}
    for operands in _CLASSES:
        forward = {"row_sum": "*fp32", "row_coef": None, "out": None, "stride_out": "i32", "terms": _PLAIN}
        gradient = {**forward, "row_coef": "*fp32", "out": _ELEMENT[operands]}
        plain = {"forward": forward, "gradient": gradient}
        masked = {"flip": {**gradient, **flip}, "flip ids": {**gradient, "terms": _IDS, "IDS_MODE": "flip"}}
        masked |= {name: {**gradient, **_RULES[name]} for name in ("ids", "lists", "threshold")}
        for variant, arguments in (plain | masked).items():
            yield _case(
                "pair_softplus", variant, _pair_softplus_kernel, architecture, _held(operands, variant in masked),
                arguments, representative=operands == "half" and variant in {"gradient", "flip"},
                exponentials=1.0,
            )  # fmt: skip
    guided = {**gradient, "terms": _GUIDED}
    yield _case("pair_softplus", "guide", _pair_softplus_kernel, architecture, "guided", guided, exponentials=1.0)


def _nested_cases(architecture: Architecture) -> Iterator[Case]:
    shared: dict[str, Any] = {"bounds": "*i32", "inv_x": "*fp32", "inv_y": "*fp32", "prefixes": "i32", "ALIGNED": 16}
    sums = {**shared, "row_sum": "*fp32", "column_sum": "*fp32", "tile_max": "*fp32", "terms": _SKIP}
    for operands in _CLASSES:
        coefficients = {**shared, "terms": _SKIP, "row_lse": "*fp32", "row_coef": "*fp32", "column_lse": "*fp32"}
        coefficients |= {
            "column_coef": "*fp32",
            "row_dot": "*fp32",
            "column_dot": "*fp32",
            "out": _ELEMENT[operands],
            "stride_out": "i32",
        }
        half = operands == "half"
        yield _case("nested_lse", "both", _nested_lse_fwd_kernel, architecture, operands, sums, representative=half)
        yield _case("nested_lse", "fix", _nested_lse_fix_kernel, architecture, operands, sums)
        yield _case(
            "nested_grad", "both", _nested_grad_kernel, architecture, operands, coefficients, representative=half
        )
        held = _held(operands, True)
        for variant in ("ids", "lists"):
            terms = {"terms": _RULES[variant]["terms"]._replace(x_bias=None, y_bias=None)}
            yield _case("nested_lse", variant, _nested_lse_fwd_kernel, architecture, held, sums | terms)
            yield _case("nested_lse", f"fix {variant}", _nested_lse_fix_kernel, architecture, held, sums | terms)
            yield _case("nested_grad", variant, _nested_grad_kernel, architecture, held, coefficients | terms)
    arguments = {"values": "*bf16", "size": "i32", "prefixes": "i32", "BLOCK": 1024}
    name = f"{architecture} nested_lse suffix sum"
    yield Case(name, _suffix_sum_kernel, architecture, Launch(1, 1024, 1, 4, 2), arguments, tensor_core=False)


def _topk_cases(architecture: Architecture) -> Iterator[Case]:
    ops: tuple[Op, ...] = ("pair_topk", "pair_topk_few")
    for op in ops:
        for operands in _CLASSES:
            plain = {"y_scale": None, "y_bias": None, "maxima": "*fp32", "groups": "i32", "GROUPED": GROUPED}
            plain |= {"chosen": "*i64", "out": "*fp32", "chosen_count": "i32"}
            scaled = {**plain, "y_scale": "*fp32", "y_bias": "*fp32", "terms": _LISTS._replace(skip=None)}
            variants: dict[str, dict[str, Any]] = {"": plain, "scaled, lists": scaled}
            if operands == "half":
                variants["int8"] = {**plain, "y": "*i8", "y_scale": "*fp32"}
            for variant, arguments in variants.items():
                held = _held(operands, "lists" in variant)
                yield _case(
                    op, f"group maxima {variant}".rstrip(), _group_max_kernel, architecture, held, arguments,
                    representative=operands == "half",
                )  # fmt: skip
                if op == "pair_topk_few":
                    yield _case(
                        op, f"rescore {variant}".rstrip(), _rescore_kernel, architecture, held, arguments, rows=16
                    )


def _count_cases(architecture: Architecture) -> Iterator[Case]:
    for operands in _CLASSES:
        counts: dict[str, Any] = {"target": "*fp32", "above": "*i32", "equal": "*i32", "OWN": False, "terms": _SKIP}
        yield _case("pair_rank", "count", _pair_rank_kernel, architecture, operands, counts)
        own = {**counts, "above": None, "equal": None, "OWN": True}
        ids = {**counts, "terms": _IDS._replace(skip="i32")}
        yield _case("pair_rank", "ids", _pair_rank_kernel, architecture, _held(operands, True), ids)
        yield _case("pair_rank", "own", _pair_rank_kernel, architecture, operands, own)
        stats = {"betas": "*fp32", "mean": "*fp32", "column_max": "*fp32", "column_sum": "*fp32", "square": "*fp32"}
        stats |= {"count": "i32"}
        yield _case(
            "pair_stats", "", _pair_stats_kernel, architecture, operands, stats, representative=operands == "half"
        )
