"""What the modules share: options, a temperature, fixed or learnt, and how they print."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Loss(nn.Module):
    """Base of the losses: ``options`` are passed on to the function in every call."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value is not None)


class ContrastiveLoss(Loss):
    """Base of the losses with a temperature.

    Parameters
    ----------
    temperature : float      where it starts if it is learnt
    learn_temperature : bool      the parameter ``log_scale`` = log(1 / temperature) is trained, a scalar as in CLIP
    max_scale : float      1 / temperature is cut off here, 100 as in CLIP; only when learnt
    options      passed on to the function in every call

    Raises
    ------
    ValueError      temperature or max_scale not above 0
    """

    def __init__(self, temperature: float, learn_temperature: bool, max_scale: float, **options: Any) -> None:
        super().__init__(**options)
        for name, value in (("temperature", temperature), ("max_scale", max_scale)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: a finite number above 0, got {value}")
        self.temperature, self.max_scale = float(temperature), float(max_scale)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None

    def current_temperature(self) -> float | Tensor:
        """The temperature of the next call."""
        if self.log_scale is None:
            return self.temperature
        return self.log_scale.clamp(max=math.log(self.max_scale)).neg().exp()

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        learnt = ", learn_temperature=True" if self.log_scale is not None else ""
        return ", ".join(filter(None, [f"temperature={self.temperature:g}{learnt}", super().extra_repr()]))
