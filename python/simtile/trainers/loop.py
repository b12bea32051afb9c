"""The training loop that all tasks share.

Nothing random is drawn from a state that a checkpoint would have to carry: weights come from the seed, a step's rows
from seed and epoch, its augmentation from seed and step. So a run that goes on from a checkpoint equals, bit for bit,
one that was never stopped. Under torchrun a step's rows are dealt out to the processes, and the loss is that of all of
them (:mod:`simtile.distributed`): the run is that of one process, up to the rounding of sums.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed as dist, nn
from torch.nn.parallel import DistributedDataParallel

from simtile.demo.progress import Progress

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises; then it falls along a cosine to zero."""

WEIGHT_DECAY = 1e-4
"""Of matrices; AdamW's default of 1e-2 is for longer runs."""


class SettingsError(ValueError):
    """A combination of options that cannot run."""


class Task(Protocol):
    """Data, model and metrics of one job."""

    name: str

    def __len__(self) -> int:
        """Training items."""
        ...

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        """A fresh model whose forward takes what :meth:`batch` returns and gives the loss, of all ranks' rows.

        ``dense``: the same loss in plain torch.
        """
        ...

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The inputs of the rows ``rows[mine]`` of a step; what is random is drawn for all rows, whoever has them."""
        ...

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        """Metrics by name."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the report says about the data."""
        ...


@dataclass(frozen=True)
class Settings:
    """One run's choices."""

    steps: int
    batch: int  # of all ranks
    learning_rate: float
    seed: int = 0
    dense: bool = False
    checkpoint: Path | None = None
    resume: bool = False
    checkpoint_every: int = 100

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        kept = ("steps", "batch", "learning_rate", "seed", "dense")
        return {name: value for name, value in asdict(self).items() if name in kept}


@dataclass
class Result:
    """What a run leaves."""

    task: str
    settings: Settings
    ranks: int
    losses: list[float]
    before: dict[str, float]
    after: dict[str, float]
    facts: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


def run(task: Task, settings: Settings) -> Result | None:
    """Measure the untrained model, train, measure again. Under torchrun every rank but 0 returns None.

    Raises
    ------
    SettingsError      a batch larger than the training items, a checkpoint that is missing or of another run, or a
        dense loss on several processes
    """
    start = time.monotonic()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch > len(task):
        raise SettingsError(f"--batch: at most the {len(task):,} training items, got {settings.batch:,}")
    if settings.dense and ranks > 1:
        raise SettingsError("--dense: on one process only")
    group = None
    if ranks > 1:
        dist.init_process_group("gloo")
        group = dist.group.WORLD
    try:
        first = group is None or dist.get_rank() == 0
        torch.manual_seed(settings.seed)
        objective = task.objective(group, dense=settings.dense)
        seconds: dict[str, float] = {}
        before = task.evaluate(objective) if first else {}
        seconds["measure before"] = time.monotonic() - start
        began = time.monotonic()
        losses = train(task, objective, settings, group)
        seconds["train"] = time.monotonic() - began
        if not first:
            return None
        began = time.monotonic()
        after = task.evaluate(objective)
        seconds["measure after"] = time.monotonic() - began
        seconds["total"] = time.monotonic() - start
        return Result(task.name, settings, ranks, losses, before, after, task.facts(), seconds)
    finally:
        if group is not None:
            dist.destroy_process_group()


def train(task: Task, objective: nn.Module, settings: Settings, group: dist.ProcessGroup | None = None) -> list[float]:
    """Train ``objective`` in place; returns the loss of every step, those before a checkpoint included."""
    model = objective if group is None else DistributedDataParallel(objective)
    rank, ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    optimizer = _optimizer(objective, settings)
    losses: list[float] = []
    if settings.resume:
        losses = _load(settings, objective, optimizer)
    share = [settings.batch * r // ranks for r in range(ranks + 1)]
    mine = slice(share[rank], share[rank + 1])
    with Progress("training", settings.steps, "steps") if rank == 0 else nullcontext() as bar:
        if bar:
            bar.advance(len(losses))
        for step in range(len(losses), settings.steps):
            for parameters in optimizer.param_groups:
                parameters["lr"] = settings.learning_rate * _schedule(step, settings.steps)
            rows = _rows(len(task), settings, step)
            loss = model(*task.batch(rows, mine, _generator(settings.seed, 1 + step)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if bar:
                bar.advance(note=f"loss {losses[-1]:.3f}")
            done = step + 1
            if rank == 0 and settings.checkpoint and (done % settings.checkpoint_every == 0 or done == settings.steps):
                _save(settings, objective, optimizer, losses)
    return losses


def _rows(items: int, settings: Settings, step: int) -> Tensor:
    """(batch,) the items of a step: every epoch a new order, whose incomplete last batch is left out."""
    per_epoch = items // settings.batch
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(items, generator=_generator(settings.seed, -1 - epoch))
    return order[place * settings.batch :][: settings.batch]


def _generator(seed: int, stream: int) -> torch.Generator:
    """Of the CPU, which reads the low 32 bits of its seed alone: a multiple of 2³²/φ sets seeds far apart in these."""
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + stream + (1 << 31)) % (1 << 32))


def _schedule(step: int, steps: int) -> float:
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _optimizer(objective: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    parameters = list(objective.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )


def _save(settings: Settings, objective: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    assert settings.checkpoint is not None
    settings.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "settings": settings.fixed(), "losses": losses, "model": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    unfinished = settings.checkpoint.with_suffix(".tmp")  # a run that is stopped while it saves keeps the last one
    torch.save(state, unfinished)
    unfinished.replace(settings.checkpoint)


def _load(settings: Settings, objective: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    if settings.checkpoint is None or not settings.checkpoint.exists():
        raise SettingsError(f"--resume: no checkpoint {settings.checkpoint}")
    state = torch.load(settings.checkpoint, weights_only=True)
    for name, value in settings.fixed().items():
        if state["settings"][name] != value:
            raise SettingsError(f"--resume: the checkpoint has {name} {state['settings'][name]}, got {value}")
    objective.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = state["losses"]
    return losses
