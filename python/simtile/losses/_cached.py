"""GradCache: a large batch's loss through an encoder that only ever holds the activations of a chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Encoder: TypeAlias = Callable[[Any], Tensor]


def encode_in_chunks(encoder: Encoder, inputs: Any, chunk_size: int) -> Tensor:
    """The representations ``encoder(inputs)``, activations kept for ``chunk_size`` rows at a time.

    Parameters
    ----------
    encoder : callable      from a chunk of the inputs to (rows, D); a module in the mode it shall run in
    inputs : Tensor (B, ...), or a mapping or sequence of such      split along their first dimension
    chunk_size : int      rows at a time

    Returns
    -------
    Tensor (B, D)      in the backward pass each chunk is encoded again, under the random state (dropout) and autocast
        it had, and its gradient taken at once

    Raises
    ------
    TypeError, ValueError      naming the argument
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size: at least 1, got {chunk_size}")
    rows = _rows(inputs)
    starts = range(0, max(rows, 1), chunk_size)
    parts = [
        checkpoint(encoder, _part(inputs, slice(start, start + chunk_size)), use_reentrant=False) for start in starts
    ]
    return torch.cat(parts)


class CachedLoss(nn.Module):
    """Any loss over a batch that is too large to encode at once: GradCache, arXiv:2101.06983.

    Representations are made chunk by chunk without keeping activations, the loss and its gradients by them over the
    whole batch, and each chunk is encoded once more for its parameters' gradients. Equal to the loss of the whole
    batch, for an encoder that treats rows independently (batch normalisation does not).

    Parameters
    ----------
    loss : callable      ``loss(*representations, **options)``, any of this library's or another
    chunk_size : int      rows whose activations are held at a time

    Examples
    --------
    >>> from simtile.losses import InfoNCELoss
    >>> towers = torch.nn.Linear(4, 2), torch.nn.Linear(6, 2)
    >>> loss = CachedLoss(InfoNCELoss(), chunk_size=8)(towers, (torch.randn(32, 4), torch.randn(32, 6)))
    >>> loss.backward()
    """

    def __init__(self, loss: Callable[..., Tensor], *, chunk_size: int = 32) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size: at least 1, got {chunk_size}")
        self.loss, self.chunk_size = loss, chunk_size

    def forward(self, encoders: Encoder | Sequence[Encoder], inputs: Sequence[Any], **options: Any) -> Tensor:
        """The loss of ``encoders[i](inputs[i])``; one encoder serves all inputs. ``options`` go to the loss.

        Raises ValueError if there are not as many encoders as inputs.
        """
        towers = [encoders] * len(inputs) if callable(encoders) else list(encoders)
        if len(towers) != len(inputs):
            raise ValueError(f"encoders: one, or one for each of the {len(inputs)} inputs, got {len(towers)}")
        made = [encode_in_chunks(tower, part, self.chunk_size) for tower, part in zip(towers, inputs, strict=True)]
        return self.loss(*made, **options)

    def extra_repr(self) -> str:
        """What distinguishes this loss when it is printed."""
        return f"chunk_size={self.chunk_size}"


def _rows(inputs: Any) -> int:
    if isinstance(inputs, Tensor):
        return inputs.shape[0]
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise TypeError(f"inputs: tensors, or a mapping or sequence of them, got {type(inputs).__name__}")
    sizes = {_rows(part) for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"inputs: tensors of equally many rows, got {sorted(sizes)}")
    return sizes.pop()


def _part(inputs: Any, rows: slice) -> Any:
    if isinstance(inputs, Tensor):
        return inputs[rows]
    if isinstance(inputs, Mapping):
        return {name: _part(part, rows) for name, part in inputs.items()}
    return tuple(_part(part, rows) for part in inputs)
