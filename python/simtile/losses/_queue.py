"""MoCo's queue of past keys, and the slowly following encoder that makes them comparable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class MomentumQueue(nn.Module):
    """The last ``size`` keys, first in first out: negatives without a gradient for ``info_nce(negatives=...)``.

    Parameters
    ----------
    size : int      65,536 in MoCo; in ESimCSE 2.5 batches
    width : int      columns of the keys
    dtype, device      of the buffer, which is saved with the module

    Raises
    ------
    ValueError      size or width below 1

    Notes
    -----
    A loss over a process group wants the same queue on every rank: push :func:`simtile.distributed.all_rows` of the
    keys. MoCo: He et al. 2020, arXiv:1911.05722; ESimCSE: Wu et al. 2022, arXiv:2109.04380.

    Examples
    --------
    >>> queue = MomentumQueue(4, 2)
    >>> queue.push(torch.eye(2))
    >>> queue.keys().shape
    torch.Size([2, 2])
    """

    rows: Tensor

    def __init__(
        self, size: int, width: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise ValueError(f"size, width: at least 1, got {size}, {width}")
        self.register_buffer("rows", torch.zeros(size, width, dtype=dtype, device=device))
        self.place, self.filled = 0, 0

    @property
    def full(self) -> bool:
        """Whether the next push lets old keys out."""
        return self.filled == self.rows.shape[0]

    def keys(self) -> Tensor:
        """(filled, width) the keys pushed so far, at most ``size``; their order means nothing.

        A view: take the loss's backward pass before the next push, which writes into it.
        """
        return self.rows[: self.filled]

    @torch.no_grad()
    def push(self, keys: Tensor, *, normalized: bool = False) -> None:
        """Let keys (B, width) in, normalised unless they are, and the oldest out.

        Raises ValueError if the width differs.
        """
        size, width = self.rows.shape
        if keys.ndim != 2 or keys.shape[1] != width:
            raise ValueError(f"keys: shape (B, {width}), got {tuple(keys.shape)}")
        keys = keys[-size:].detach().to(self.rows.dtype)
        if not normalized:
            keys = normalize(keys, dim=1)
        first = min(keys.shape[0], size - self.place)
        self.rows[self.place : self.place + first] = keys[:first]
        self.rows[: keys.shape[0] - first] = keys[first:]
        self.place = (self.place + keys.shape[0]) % size
        self.filled = min(size, self.filled + keys.shape[0])

    def get_extra_state(self) -> Tensor:
        """Where the next key goes and how many there are, for ``state_dict``."""
        return torch.tensor([self.place, self.filled])

    def set_extra_state(self, state: Tensor) -> None:
        """From ``state_dict``."""
        self.place, self.filled = state.tolist()

    def extra_repr(self) -> str:
        """What distinguishes this queue when it is printed."""
        size, width = self.rows.shape
        return f"size={size}, width={width}, filled={self.filled}"


@torch.no_grad()
def momentum_update(follower: nn.Module, leader: nn.Module, momentum: float = 0.999) -> None:
    """follower = momentum · follower + (1 - momentum) · leader, parameter by parameter.

    0.999 as in MoCo; ESimCSE takes 0.995. Buffers, such as running means, stay the follower's own.

    Raises ValueError if the two differ in parameters, or for a momentum outside of [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum: a number from 0 to 1, got {momentum}")
    mine, theirs = list(follower.parameters()), list(leader.parameters())
    if [part.shape for part in mine] != [part.shape for part in theirs]:
        raise ValueError("leader: the parameters of follower, in shapes and order")
    for part, other in zip(mine, theirs, strict=True):
        part.lerp_(other.to(part), 1 - momentum)
