"""Does training on W processes follow the gradient of one process? Ours, and other libraries' modes.

    python benches/distributed_equality.py [--ranks 2] [--output FILE.json]

Every loss gets the same embeddings in float64, dealt out to W gloo processes. What DistributedDataParallel would make
of the gradients, their mean over the ranks, is compared with the same library's loss on one process:

    loss        a rank's loss over the loss of one process, mean over the ranks
    gradient    the factor c with which c * (gradient of one process) comes closest, by least squares; 1 is right
    off         what remains then, relative: the gradient's direction is wrong unless this is rounding
    temperature the same factor for the gradient of a learnt scale ("-": the loss has none)

Written as JSON with --output, printed as the table of docs/distributed.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed as dist, multiprocessing as mp

if TYPE_CHECKING:
    from collections.abc import Callable

D, B = 16, 24
PACKAGES = ("simtile", "torch", "open_clip_torch", "sentence-transformers", "pytorch-metric-learning", "lightly")


class Mode(NamedTuple):
    """A loss of (query, key, scale) on this rank of W; ``rank`` None: on one process."""

    loss: Callable[[Tensor, Tensor, Tensor, int | None, int], Tensor]
    learns_scale: bool = True
    uneven: bool = False


def _ours(name: str, exchange: str) -> Callable[..., Tensor]:
    def loss(q: Tensor, k: Tensor, scale: Tensor, rank: int | None, W: int) -> Tensor:
        from simtile import distributed, functional as F

        group = None if rank is None else getattr(distributed, exchange)()
        if name == "sigmoid_loss":
            return F.sigmoid_loss(q, k, scale=scale, process_group=group)
        return F.info_nce(q, k, temperature=1 / scale, symmetric=True, process_group=group)

    return loss


def _open_clip(**options: bool) -> Callable[..., Tensor]:
    def loss(q: Tensor, k: Tensor, scale: Tensor, rank: int | None, W: int) -> Tensor:
        from open_clip.loss import ClipLoss

        q, k = torch.nn.functional.normalize(q), torch.nn.functional.normalize(k)
        found: Tensor = ClipLoss(**({} if rank is None else {"rank": rank, "world_size": W, **options}))(q, k, scale)
        return found

    return loss


def _sentence_transformers(q: Tensor, k: Tensor, scale: Tensor, rank: int | None, W: int) -> Tensor:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(torch.nn.Identity(), gather_across_devices=rank is not None)
    found: Tensor = loss.compute_loss_from_embeddings([q, k], None)
    return found


def _metric_learning(q: Tensor, k: Tensor, scale: Tensor, rank: int | None, W: int) -> Tensor:
    from pytorch_metric_learning.losses import NTXentLoss
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    loss = NTXentLoss()
    ids = torch.arange(q.shape[0]) + (0 if rank is None else rank * q.shape[0])
    both, labels = torch.cat([q, k]), torch.cat([ids, ids])
    found: Tensor = loss(both, labels) if rank is None else DistributedLossWrapper(loss)(both, labels)
    return found


def _lightly(q: Tensor, k: Tensor, scale: Tensor, rank: int | None, W: int) -> Tensor:
    from lightly.loss import NTXentLoss

    found: Tensor = NTXentLoss(gather_distributed=rank is not None)(q, k)
    return found


MODES = {
    "simtile `info_nce`, ring, uneven batches": Mode(_ours("info_nce", "ring"), uneven=True),
    "simtile `info_nce`, gather, uneven batches": Mode(_ours("info_nce", "gather"), uneven=True),
    "simtile `sigmoid_loss`, ring, uneven batches": Mode(_ours("sigmoid_loss", "ring"), uneven=True),
    "open_clip `ClipLoss`, defaults": Mode(_open_clip()),
    "open_clip `ClipLoss(gather_with_grad)`": Mode(_open_clip(gather_with_grad=True)),
    "open_clip `ClipLoss(local_loss)`": Mode(_open_clip(local_loss=True)),
    "open_clip `ClipLoss(local_loss, gather_with_grad)`": Mode(_open_clip(local_loss=True, gather_with_grad=True)),
    "sentence-transformers `gather_across_devices`": Mode(_sentence_transformers, learns_scale=False),
    "pytorch-metric-learning `DistributedLossWrapper`": Mode(_metric_learning, learns_scale=False),
    "lightly `gather_distributed`": Mode(_lightly, learns_scale=False),
}


def shares(W: int, uneven: bool) -> list[int]:
    """Rows of each rank, B in all."""
    if not uneven:
        return [B // W] * W
    sizes = [3 + rank for rank in range(W - 1)]
    return [*sizes, B - sum(sizes)]


def evaluate(mode: Mode, rank: int | None, W: int) -> dict[str, Tensor]:
    """Loss and gradients of one rank's rows, or with ``rank`` None of all rows in one process."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(B, D, generator=generator, dtype=torch.float64) for _ in range(2))
    if rank is not None:
        sizes = shares(W, mode.uneven)
        rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        q, k = q[rows].clone(), k[rows].clone()
    q, k, scale = q.requires_grad_(), k.requires_grad_(), torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    loss = mode.loss(q, k, scale, rank, W)
    loss.backward()
    nothing = torch.zeros((), dtype=torch.float64)
    return {"loss": loss.detach(), "q": q.grad, "k": k.grad, "scale": nothing if scale.grad is None else scale.grad}


def _rank(rank: int, W: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=W)
    torch.save({name: evaluate(mode, rank, W) for name, mode in MODES.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def compare(name: str, ranks: list[dict[str, dict[str, Tensor]]]) -> dict[str, Any]:
    """One line of the table."""
    W, single = len(ranks), evaluate(MODES[name], None, 1)
    parts = [rank[name] for rank in ranks]
    found = torch.cat([torch.cat([part[side] for part in parts]).flatten() / W for side in ("q", "k")])
    right = torch.cat([single["q"].flatten(), single["k"].flatten()])
    factor = float(found @ right / (right @ right))
    scale = None
    if MODES[name].learns_scale:
        scale = float(sum(part["scale"] for part in parts) / W / single["scale"])
    return {
        "loss": float(sum(part["loss"] for part in parts) / W / single["loss"]),
        "gradient": factor,
        "off": float((found - factor * right).norm() / (factor * right).norm()),
        "temperature": scale,
    }


def main() -> None:
    """Run the ranks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, metavar="W", help="processes (default 2)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (options.ranks, folder), nprocs=options.ranks)
        ranks = [torch.load(f"{folder}/{rank}.pt") for rank in range(options.ranks)]
    warnings.simplefilter("ignore")
    lines = {name: compare(name, ranks) for name in MODES}
    print("| loss | loss | gradient | off | temperature |\n|---|---:|---:|---:|---:|")
    for name, line in lines.items():
        scale = "–" if line["temperature"] is None else f"{line['temperature']:.4f}"
        print(f"| {name} | {line['loss']:.4f} | {line['gradient']:.4f} | {line['off']:.0e} | {scale} |")
    if options.output:
        versions = {package: importlib.metadata.version(package) for package in PACKAGES}
        record = {"ranks": options.ranks, "versions": versions, "python": platform.python_version(), "lines": lines}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
