"""Train two towers on several processes with the loss of all their pairs.

    torchrun --nproc-per-node 2 examples/distributed_two_towers.py --wrap ddp
    torchrun --nproc-per-node 2 examples/distributed_two_towers.py --wrap fsdp2

Runs on CPUs (gloo). Each rank draws a batch of its own size; the loss and the gradients are those of one process that
has the batches of all ranks, and so is the trained model, whatever the number of processes that share a batch.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, distributed as dist, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from simtile import distributed
from simtile.functional import in_batch_accuracy
from simtile.losses import InfoNCELoss


class TwoTowers(nn.Module):
    """Two views of a hidden vector, mapped to a common space."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))
        self.right = nn.Sequential(nn.Linear(24, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(left), self.right(right)


def main() -> None:
    """Train for a few steps and print the loss, which every rank has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrap", choices=("ddp", "fsdp2"), default="ddp")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    rank, W = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)  # the same weights, and the same views of the hidden vectors, on every rank
    towers = TwoTowers()
    views = torch.randn(8, 32), torch.randn(8, 24)
    # The temperature is outside of what is wrapped (FSDP2 shards no scalars), so its gradient is averaged below. Inside
    # a model that DDP wraps, DDP does that.
    loss = InfoNCELoss(learn_temperature=True, symmetric=True, process_group=distributed.ring())
    if options.wrap == "ddp":
        model: nn.Module = DistributedDataParallel(towers)
    else:
        model = fully_shard(towers, mesh=init_device_mesh("cpu", (W,)))
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=3e-3)

    generator = torch.Generator().manual_seed(1 + rank)
    for step in range(options.steps + 1):
        hidden = torch.randn(256 + 32 * rank, 8, generator=generator)
        left, right = model(hidden @ views[0], hidden @ views[1])
        value = loss(left, right)
        optimizer.zero_grad()
        value.backward()
        for parameter in loss.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= W
        optimizer.step()
        if rank == 0 and step % 20 == 0:
            accuracy = in_batch_accuracy(left, right)
            print(f"step {step:3}  loss {value.item():.3f}  rank 0's pairs found among its own {accuracy:.1%}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
