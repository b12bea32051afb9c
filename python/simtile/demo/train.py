"""Contrastive training of the encoder with in-batch negatives, through `simtile.functional.info_nce`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from simtile.demo.model import StaticEncoder, TokenRows
from simtile.functional import info_nce

WARM_UP = 0.1  # share of the steps


@dataclass(frozen=True)
class Step:
    """One optimiser step, as the loss curve shows it. `temperature` is the one that the loss was computed with."""

    loss: float
    temperature: float
    learning_rate: float


def train(
    encoder: StaticEncoder,
    queries: TokenRows,
    codes: TokenRows,
    *,
    batch: int,
    epochs: int,
    learning_rate: float = 0.02,
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Train in place.

    Parameters
    ----------
    encoder : StaticEncoder
    queries, codes : TokenRows
        N texts each; query i belongs to code i, and every other code of its batch is a negative.
    batch : int
        Pairs per step, at most N. The last, incomplete batch of an epoch is dropped: a smaller batch is an easier
        problem, and its loss would stand out of the curve.
    epochs : int
    learning_rate : float
        Peak of a linear warm-up (`WARM_UP` of the steps) and a linear decay to zero. Large, as is usual for a table of
        which a step touches a fraction.
    seed : int
        Of the order of the pairs.
    on_step : callable, optional

    Returns
    -------
    list of Step

    Raises
    ------
    ValueError
        If `batch` is not in 2..N, or `epochs` is not positive.
    """
    if not 2 <= batch <= len(queries):
        raise ValueError(f"batch must be between 2 and the number of pairs, {len(queries)}, got {batch}")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    order = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(
        [
            {"params": encoder.words.parameters(), "lr": learning_rate},
            {"params": [encoder.log_temperature], "lr": learning_rate / 2},
        ]
    )
    steps_per_epoch = len(queries) // batch
    n_steps = steps_per_epoch * epochs
    warm_up = max(1, math.ceil(WARM_UP * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (n_steps - step) / max(1, n_steps - warm_up))
    )
    history = []
    for _ in range(epochs):
        pairs = order.permutation(len(queries))
        for rows in pairs[: steps_per_epoch * batch].reshape(steps_per_epoch, batch):
            temperature = encoder.temperature
            loss = info_nce(encoder(queries, rows), encoder(codes, rows), temperature=temperature, symmetric=True)
            optimizer.zero_grad()
            loss.backward()
            step = Step(loss.item(), temperature.item(), optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
            history.append(step)
            if on_step is not None:
                on_step(step)
    return history
