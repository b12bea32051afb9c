"""What autocast does to the factors of a product, done to the inputs of a fused loss."""

from __future__ import annotations

import torch
from torch import Tensor


def as_in_a_product(features: Tensor) -> Tensor:
    """The features in autocast's dtype, where the original's product of matrices would take them in it.

    Unchanged outside of autocast, and in float64, which autocast leaves alone. The fused operations themselves keep
    their inputs' dtype.
    """
    device = features.device.type
    if features.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return features
    return features.to(torch.get_autocast_dtype(device))
