"""Losses over several processes: what each case passes, how its batch is dealt out, and the ranks that compute it.

A case's rows are dealt out unevenly, one rank of four has none. What every rank has whole (a queue, the temperature) is
``shared``. :func:`run` starts the ranks once for all cases; their results are compared with one process by the tests.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed as dist, multiprocessing as mp

from simtile import distributed, functional as F, listwise

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = {1: [16], 2: [5, 11], 4: [3, 0, 9, 4]}
EXTRA = {1: [6], 2: [4, 2], 4: [0, 2, 3, 1]}
"""Rows of a rank's batch, and further keys, by the number of ranks."""

D = 8
EXCHANGES: dict[str, Callable[[], distributed.Ranks]] = {"ring": distributed.ring, "gather": distributed.gather}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
IN_BFLOAT16 = ("info_nce_symmetric_ids", "sigmoid_loss")
"""Cases that are computed in 16 bits too."""


@dataclass(frozen=True)
class Case:
    """A loss, and its arguments: floating tensors get gradients."""

    loss: Callable[..., Tensor]
    rows: tuple[str, ...] = ("query", "key")  # dealt out
    shared: tuple[str, ...] = ()
    extra: bool = False  # keys without a query
    options: dict[str, Any] = field(default_factory=dict)


def _info_nce(**options: Any) -> Callable[..., Case]:
    def case(*rows: str, extra: bool = False, shared: tuple[str, ...] = ()) -> Case:
        return Case(F.info_nce, ("query", "key", *rows), ("temperature", *shared), extra, options)

    return case


def _nt_xent(query: Tensor, key: Tensor, query_ids: Tensor | None = None, **options: Any) -> Tensor:
    return F.nt_xent(query, key, labels=query_ids, **options)


def _sup_con(
    query: Tensor, query_ids: Tensor, key: Tensor | None = None, key_ids: Tensor | None = None, **options: Any
) -> Tensor:
    return F.sup_con(query, query_ids, keys=key, key_labels=key_ids, **options)


def _cwcl(query: Tensor, key: Tensor, features: Tensor, **options: Any) -> Tensor:
    return F.cwcl(query, key, features.detach(), **options)


def _guided(query: Tensor, key: Tensor, features: Tensor, **options: Any) -> Tensor:
    return F.filtered_info_nce(query, key, guide=(features.detach(), features.detach().roll(1, 1)), **options)


def _multi_positive(query: Tensor, row_negatives: Tensor, query_ids: Tensor | None = None, **options: Any) -> Tensor:
    return F.multi_positive_info_nce(query, row_negatives[:, :2], row_negatives[:, 2:], ids=query_ids, **options)


def _stable_distillation(query: Tensor, row_negatives: Tensor, **options: Any) -> Tensor:
    reward = row_negatives.detach()[..., 0]
    return listwise.stable_distillation(query, row_negatives, reward, contrastive_weight=0.2, **options)


def _dcl(query: Tensor, key: Tensor, **options: Any) -> Tensor:
    return F.dcl(query, key, **options)


def _hcl(query: Tensor, key: Tensor, **options: Any) -> Tensor:
    return F.hcl(query, key, **options)


def _matryoshka(query: Tensor, key: Tensor, **options: Any) -> Tensor:
    return F.matryoshka_info_nce(query, key, [3, 8, 5], weights=[0.5, 1.0, 2.0], **options)


_IDS = ("query_ids", "key_ids")
BLOCKS = ("query_key", "query_query", "key_query", "key_key")
CASES: dict[str, Case] = {
    "info_nce": _info_nce()(),
    "info_nce_sum": _info_nce(reduction="sum")(),
    "info_nce_by_row": _info_nce(reduction="none")("weight"),
    "info_nce_symmetric": _info_nce(symmetric=True)(),
    "info_nce_recompute": _info_nce(symmetric=True, plan="recompute")(),
    "info_nce_ids": _info_nce()(*_IDS, extra=True),
    "info_nce_symmetric_ids": _info_nce(symmetric=True)(*_IDS, "weight", extra=True),
    "info_nce_targets": _info_nce(symmetric=True)("targets", *_IDS, extra=True),
    "info_nce_queue": _info_nce(symmetric=True)(*_IDS, shared=("negatives",)),
    "info_nce_row_negatives": _info_nce()("row_negatives", "weight", shared=("negatives",)),
    "info_nce_smoothing": _info_nce(label_smoothing=0.1)(*_IDS, "weight", extra=True),
    "info_nce_symmetric_smoothing": _info_nce(symmetric=True, label_smoothing=0.1)(
        *_IDS, "row_negatives", extra=True, shared=("negatives",)
    ),
    "info_nce_inner_products": _info_nce(normalize=False, symmetric=True)(),
    "nt_xent": Case(_nt_xent, ("query", "key"), ("temperature",)),
    "nt_xent_labels": Case(_nt_xent, ("query", "key", "query_ids", "weight"), ("temperature",)),
    "sup_con": Case(_sup_con, ("query", "query_ids", "weight"), ("temperature",)),
    "sup_con_in": Case(_sup_con, ("query", "query_ids"), ("temperature",), options={"form": "in"}),
    "sup_con_keys": Case(_sup_con, ("query", "key", *_IDS), ("temperature",), True),
    "cwcl": Case(_cwcl, ("query", "key", "features"), ("temperature",)),
    "cwcl_one_sided": Case(_cwcl, ("query", "key", "features"), ("temperature",), options={"symmetric": False}),
    "filtered_info_nce": Case(F.filtered_info_nce, shared=("temperature",), options={"margin": -0.1}),
    "filtered_info_nce_guided": Case(
        _guided, ("query", "key", "features", "weight"), ("temperature",), options={"blocks": BLOCKS}
    ),
    "margin_info_nce": Case(
        F.margin_info_nce, ("query", "key", *_IDS, "weight"), ("temperature",), True, {"kind": "angular"}
    ),
    "focal_info_nce": Case(F.focal_info_nce, ("query", "key", *_IDS, "row_negatives"), ("temperature",)),
    "multi_positive": Case(
        _multi_positive,
        ("query", "row_negatives", "query_ids", "weight"),
        ("temperature",),
        options={"symmetric": True},
    ),
    "stable_distillation": Case(_stable_distillation, ("query", "row_negatives", "weight"), ("temperature",)),
    "matryoshka": Case(_matryoshka, shared=("temperature",)),
    "matryoshka_symmetric_ids": Case(
        _matryoshka, ("query", "key", *_IDS, "weight"), ("temperature",), True, {"symmetric": True}
    ),
    "dcl": Case(_dcl, ("query", "key", "weight"), ("temperature",)),
    "dcl_weighted": Case(_dcl, shared=("temperature",), options={"sigma": 0.5}),
    "hcl": Case(_hcl, shared=("temperature",)),
    "hcl_debiased": Case(_hcl, ("query", "key", "weight"), ("temperature",), options={"beta": 0.0}),
    "cmim": Case(F.cmim, ("query", "key", "weight"), ("temperature",), True),
    "sigmoid_loss": Case(F.sigmoid_loss, shared=("scale", "bias")),
    "sigmoid_loss_ids": Case(F.sigmoid_loss, ("query", "key", *_IDS), ("scale", "bias"), True),
    "sigmoid_loss_weight": Case(F.sigmoid_loss, ("query", "key", "weight"), ("scale", "bias")),
    "sigmoid_loss_sum": Case(F.sigmoid_loss, shared=("scale", "bias"), options={"reduction": "sum"}),
    "sigmoid_loss_by_row": Case(F.sigmoid_loss, shared=("scale", "bias"), options={"reduction": "none"}),
}


def everything(dtype: torch.dtype) -> dict[str, Tensor]:
    """Every argument of every case, all rows of it."""
    rng = np.random.default_rng(7)
    B, E = sum(ROWS[1]), sum(EXTRA[1])
    found = {
        "query": rng.normal(size=(B, D)),
        "key": rng.normal(size=(B, D)),
        "extra": rng.normal(size=(E, D)),
        "features": rng.normal(size=(B, 5)),
        "row_negatives": rng.normal(size=(B, 3, D)),
        "negatives": rng.normal(size=(5, D)),
        "temperature": np.asarray(0.2),
        "scale": np.asarray(5.0),
        "bias": np.asarray(-3.0),
        "weight": rng.integers(0, 3, B).astype(float),
        "query_ids": rng.integers(0, 8, B),
        "key_ids": rng.integers(0, 8, B),
        "extra_ids": rng.integers(0, 8, E),
    }
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in found.items()}
    wide = torch.promote_types(dtype, torch.float32)  # scalars and weights
    return {
        name: value.to(dtype if value.ndim > 1 else wide) if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def share(case: Case, values: dict[str, Tensor], rank: int, W: int) -> dict[str, Tensor]:
    """The arguments of one rank: rows of its own, its further keys after its keys."""

    def mine(value: Tensor, sizes: list[int]) -> Tensor:
        return value[sum(sizes[:rank]) :][: sizes[rank]]

    found = {name: mine(values[name], ROWS[W]) for name in case.rows if name != "targets"}
    if case.extra:
        found["key"] = torch.cat([found["key"], mine(values["extra"], EXTRA[W])])
        if "key_ids" in found:
            found["key_ids"] = torch.cat([found["key_ids"], mine(values["extra_ids"], EXTRA[W])])
    if "targets" in case.rows:  # keys of the rank's own, some of them twice
        found["targets"] = (torch.arange(ROWS[W][rank]) * 7 + 1) % max(found["key"].shape[0], 1)
    return found | {name: values[name] for name in case.shared}


def joined(case: Case, values: dict[str, Tensor], W: int) -> dict[str, Tensor]:
    """The arguments of one process that has the rows of all ranks: their paired keys first, then the further ones."""
    found = share(case, values, 0, 1)
    if "targets" in case.rows:
        targets = []
        for rank in range(W):
            mine = share(case, values, rank, W)["targets"]
            paired, before = ROWS[W][rank], sum(ROWS[W][:rank])
            further = sum(ROWS[W]) + sum(EXTRA[W][:rank]) - paired
            targets.append(torch.where(mine < paired, mine + before, mine + further))
        found["targets"] = torch.cat(targets)
    return found


def compute(case: Case, arguments: dict[str, Tensor], ranks: distributed.Ranks | None) -> dict[str, Tensor]:
    """The loss under "loss", and gradients under the arguments' names."""
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in arguments.items()
        if value.is_floating_point() and name != "weight"
    }
    loss = case.loss(**{**arguments, **leaves}, **case.options, process_group=ranks)
    loss.sum().backward()
    return {"loss": loss.detach(), **{name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}


def run(W: int, folder: Path) -> list[dict[tuple[str, str, str], dict[str, Tensor]]]:
    """Results of every rank by case, exchange and dtype."""
    start(_compute_all, W, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(W)]


def start(job: Callable[[int, int, Path], None], W: int, folder: Path) -> None:
    """Run ``job(rank, W, folder)`` in W processes that form a gloo group."""
    mp.spawn(_in_group, (job, W, folder), nprocs=W)


def _in_group(rank: int, job: Callable[[int, int, Path], None], W: int, folder: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=W)
    job(rank, W, folder)
    dist.destroy_process_group()


def _compute_all(rank: int, W: int, folder: Path) -> None:
    found = {}
    for dtype_name, dtype in DTYPES.items():
        values = everything(dtype)
        for name, case in CASES.items():
            if dtype_name == "bfloat16" and name not in IN_BFLOAT16:
                continue
            for exchange, ranks in EXCHANGES.items():
                found[name, exchange, dtype_name] = compute(case, share(case, values, rank, W), ranks())
    torch.save(found, folder / f"{rank}.pt")
