"""What is trained on frozen embeddings of docstrings and functions: layers that can be cut, experts by domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from simtile.demo.evaluate import evaluate
from simtile.demo.model import StaticEncoder, minilm_word_table
from simtile.functional import info_nce, matryoshka_2d
from simtile.recipes.claim import Outcome
from simtile.recipes.tasks import CodePairs, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import distributed as dist

WIDTH = 384
TEMPERATURE = 0.05


class Heads:
    """Frozen embeddings of docstrings and functions, and what is trained on them.

    Parameters
    ----------
    pairs : CodePairs      whose encoder stays as it is
    model : callable      makes the module that turns (n, D) embeddings of one side into whatever the loss takes
    """

    name = "heads"

    def __init__(self, pairs: CodePairs, model: Callable[[], nn.Module]) -> None:
        self.pair_loss: Any = None
        encoder, self.model = StaticEncoder(minilm_word_table()), model
        sides = pairs.train_query, pairs.train_code, pairs.test_query, pairs.test_code
        self.query, self.code, self.test_query, self.test_code = (
            normalize(torch.from_numpy(encoder.encode(side)), dim=1) for side in sides
        )

    def __len__(self) -> int:
        return len(self.query)

    def objective(self, group: dist.ProcessGroup | None, *, dense: bool) -> nn.Module:
        return Head(self.model(), self.pair_loss)

    def batch(self, rows: Tensor, mine: slice, generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.query[rows[mine]], self.code[rows[mine]], rows[mine]

    def evaluate(self, objective: nn.Module) -> dict[str, float]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {"training pairs": len(self), "test pairs": len(self.test_query)}


class Head(nn.Module):
    """A model of one side, used for both, and a loss."""

    def __init__(self, model: nn.Module, loss: Any) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, query: Tensor, code: Tensor, rows: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.model(query), self.model(code), rows)
        return loss


class Layers(nn.Module):
    """Residual layers; returns what each leaves."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
            for _ in range(number)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.layers:
            x = x + layer(x)
            found.append(x)
        return found


def two_dimensional(*, steps: int, batch: int, pairs: int, seed: int) -> Outcome:
    """Recall of an early layer's first coordinates, trained for it, beside the same cut of a plainly trained model."""
    task = Heads(CodePairs(max_pairs=pairs), lambda: Layers(3))
    cuts = {"layer 1 of 3, 32 of 384": (0, 32), "layer 1, all": (0, WIDTH), "layer 3, all": (2, WIDTH)}

    def both_ways(query: list[Tensor], code: list[Tensor], rows: Tensor) -> Tensor:
        return matryoshka_2d(query, code, [32, 96, WIDTH], temperature=TEMPERATURE)

    def last(query: list[Tensor], code: list[Tensor], rows: Tensor) -> Tensor:
        return info_nce(query[-1], code[-1], temperature=TEMPERATURE)

    recalls = []
    for loss in (both_ways, last):
        model: Any = fit(task, loss, steps=steps, batch=batch, learning_rate=1e-3, seed=seed).objective.model
        with torch.no_grad():
            query, code = model(task.test_query), model(task.test_code)
        sides = [[side[at][:, :d].numpy() for side in (query, code)] for at, d in cuts.values()]
        recalls.append({name: evaluate(*side).recall_at_10 for name, side in zip(cuts, sides, strict=True)})
    first = next(iter(cuts))
    rest = {f"recall@10, {name}": recalls[0][name] for name in cuts if name != first}
    return Outcome(
        recalls[0][first], recalls[1][first],
        {**rest, **{f"recall@10, {name}, trained plainly": recalls[1][name] for name in cuts if name != first}},
    )  # fmt: skip


class Experts(nn.Module):
    """One residual layer a domain; a row is routed by its domain, which is known."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(number))
        for expert in self.experts:
            nn.init.zeros_(expert.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(number, n, D): what each expert makes of the rows."""
        return torch.stack([x + expert(x) for expert in self.experts])


def experts(*, steps: int, batch: int, pairs: int, seed: int) -> Outcome:
    """Two domains, docstring to function and function to docstring, in one routed model, beside a model of each."""
    task = Heads(CodePairs(max_pairs=pairs), lambda: Experts(2))

    def of_domains(*domains: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Multiple negatives ranking in each: the query alone goes through the expert of its domain."""

        def loss(query: Tensor, code: Tensor, rows: Tensor) -> Tensor:
            terms = [(query[0], task.code[rows]), (code[1], task.query[rows])]
            return torch.stack([info_nce(*terms[domain], temperature=TEMPERATURE) for domain in domains]).sum()

        return loss

    def recall(model: Any, domain: int) -> float:
        sides = task.test_query, task.test_code
        with torch.no_grad():
            asked = model(sides[domain])[domain]
        return evaluate(asked.numpy(), sides[1 - domain].numpy()).recall_at_1

    run = {"steps": steps, "batch": batch, "learning_rate": 1e-3, "seed": seed}
    routed = fit(task, of_domains(0, 1), **run).objective.model  # type: ignore[arg-type]
    alone = [fit(task, of_domains(domain), **run).objective.model for domain in (0, 1)]  # type: ignore[arg-type]
    mine, other = ([recall(model, domain) for domain, model in enumerate(pair)] for pair in ([routed] * 2, alone))
    return Outcome(
        sum(mine) / 2, sum(other) / 2,
        {"docstring to function": mine[0], "function to docstring": mine[1],
         "docstring to function before": recall(Experts(2), 0), "function to docstring before": recall(Experts(2), 1),
         "docstring to function by the wrong expert": _crossed(task, routed)},
    )  # fmt: skip


def _crossed(task: Heads, model: Any) -> float:
    with torch.no_grad():
        asked = model(task.test_query)[1]
    return evaluate(asked.numpy(), task.test_code.numpy()).recall_at_1
