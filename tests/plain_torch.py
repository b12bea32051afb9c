"""What a user would write in plain torch: the bar that errors are judged by. Products in the inputs' dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from simtile.kernels import reference_torch as twin


def scores(
    x: Tensor, y: Tensor, scale: float = 1.0, x_bias: Tensor | None = None, y_bias: Tensor | None = None
) -> Tensor:
    """(M, N) scores; those of 16-bit inputs are rounded to 16 bits by the product, as ``x @ y.T`` does."""
    s = scale * (x @ y.T).to(torch.promote_types(x.dtype, torch.float32))
    if x_bias is not None:
        s = s + x_bias[:, None]
    if y_bias is not None:
        s = s + y_bias
    return s


def masked(s: Tensor, **mask: object) -> Tensor:
    """Scores with -inf where pairs are left out."""
    return s.masked_fill(twin.left_out(*s.shape, s=s, device=s.device, **mask), -torch.inf)


def rounding(scale: float) -> float:
    """How much coarser than an ulp e^(s - lse) is for scores up to ``scale``: scores are rounded to float32, and so is
    a log-sum-exp that is handed over. Which side is luckier decides where scores are in the hundreds, or have biases.

    As the ``magnitude`` of a gradient's largest term it allows, at four ulp, one ulp of the largest score.
    """
    return max(1.0, scale / 4)


def coarse(dtype: torch.dtype) -> float:
    """float32 ulp in an eighth of an ulp of ``dtype``: for float32 sums of numbers that were rounded to 16 bits."""
    return max(1.0, torch.finfo(dtype).eps / torch.finfo(torch.float32).eps / 8)


def gradients(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a loss by its inputs, zeros where it does not depend on one."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
