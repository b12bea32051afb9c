"""The Rust engine (:mod:`simtile._core`) on CPU tensors, without copies.

float32 goes in as it is, bfloat16 as its bits; float16, which the engine does not compute in, goes in as float32. What
comes back shares memory with the arrays that the engine made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from simtile import _core
from simtile._pairs import Gradients, Pairs, Scale, Want, gradient_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _PairsArguments(TypedDict, total=False):
    x_ids: NDArray[np.int64] | None
    y_ids: NDArray[np.int64] | None
    ids_mode: Any
    indptr: NDArray[np.int64] | None
    indices: NDArray[np.int64] | None
    diagonal: Any
    threshold: NDArray[np.float32] | None
    guide_x: NDArray[np.float32] | NDArray[np.uint16] | None
    guide_y: NDArray[np.float32] | NDArray[np.uint16] | None
    num_threads: int


class _ScoreArguments(_PairsArguments, total=False):
    x_bias: NDArray[np.float32] | None
    y_bias: NDArray[np.float32] | None


def _matrix(x: Tensor) -> NDArray[np.float32] | NDArray[np.uint16]:
    x = x.detach().contiguous()
    if x.dtype == torch.bfloat16:
        return cast("NDArray[np.uint16]", x.view(torch.int16).numpy().view(np.uint16))
    return cast("NDArray[np.float32]", x.float().numpy())


def _floats(values: Tensor | None) -> NDArray[np.float32] | None:
    return None if values is None else cast("NDArray[np.float32]", values.detach().float().contiguous().numpy())


def _ints(values: Tensor | None) -> NDArray[np.int64] | None:
    return None if values is None else cast("NDArray[np.int64]", values.detach().contiguous().numpy())


def _tensor(values: NDArray[Any] | None) -> Tensor | None:
    if values is None:
        return None
    if values.dtype == np.uint16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def _arguments(biases: tuple[Tensor | None, Tensor | None], pairs: Pairs) -> _ScoreArguments:
    return {"x_bias": _floats(biases[0]), "y_bias": _floats(biases[1]), **_pairs_arguments(pairs)}


def _pairs_arguments(pairs: Pairs) -> _PairsArguments:
    return {
        "x_ids": _ints(pairs.x_ids),
        "y_ids": _ints(pairs.y_ids),
        "ids_mode": pairs.ids_mode,
        "indptr": _ints(pairs.indptr),
        "indices": _ints(pairs.indices),
        "diagonal": pairs.diagonal,
        "threshold": _floats(pairs.threshold),
        "guide_x": None if pairs.guide_x is None else _matrix(pairs.guide_x),
        "guide_y": None if pairs.guide_y is None else _matrix(pairs.guide_y),
        "num_threads": torch.get_num_threads(),
    }


def _gradients(parts: tuple[Any, Any, float, Any, Any], x: Tensor, want: Want) -> Gradients:
    dx, dy, dscale, dx_bias, dy_bias = parts
    scale = torch.tensor(dscale, dtype=torch.float32) if want.scale else None
    found = Gradients(_tensor(dx), _tensor(dy), scale, _tensor(dx_bias), _tensor(dy_bias))
    assert found.x is None or found.x.dtype == gradient_dtype(x)
    return found if want.x else found._replace(x=None)


class CpuEngine:
    """The engine interface on ``simtile._core``; ``workspace_bytes`` bounds its buffers of coefficients."""

    def __init__(self, workspace_bytes: int) -> None:
        self.workspace_bytes = workspace_bytes

    def lse(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        row: bool, column: bool, positive: bool, stash: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Row (M,) and column (N,) log-sum-exp, own scores s_ii (min(M, N),), and the stash, float16 bits as int16."""
        x_array, y_array, factor = _matrix(x), _matrix(y), float(scale)
        rows = columns = kept = None
        if row or column:
            rows, columns, kept = _core.pair_lse(
                x_array,
                y_array,
                factor,
                want_row=row,
                want_column=column,
                want_stash=stash,
                **_arguments(biases, pairs),
            )
        own = self._own(x_array, y_array, factor, biases) if positive else None
        return _tensor(rows), _tensor(columns), own, None if kept is None else torch.from_numpy(kept.view(np.int16))

    def _own(
        self, x: NDArray[Any], y: NDArray[Any], scale: float, biases: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        own = torch.from_numpy(_core.pair_dot(x, y, scale, num_threads=torch.get_num_threads()))
        for bias in biases:
            if bias is not None:
                own.add_(bias.detach()[: own.shape[0]])
        return own

    def grad(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        lse: tuple[Tensor | None, Tensor | None], grads: tuple[Tensor | None, Tensor | None, Tensor | None],
        stash: Tensor | None, want: Want,
    ) -> Gradients:  # fmt: skip
        """Gradients for those of the row and column log-sum-exps and of the own scores."""
        row_grad, column_grad, own_grad = grads
        parts = _core.pair_grad(
            _matrix(x),
            _matrix(y),
            float(scale),
            row_lse=_floats(lse[0]) if row_grad is not None else None,
            row_grad=_floats(row_grad),
            column_lse=_floats(lse[1]) if column_grad is not None else None,
            column_grad=_floats(column_grad),
            diagonal_grad=_floats(own_grad),
            stash=None if stash is None else cast("NDArray[np.uint16]", stash.numpy().view(np.uint16)),
            want_x=_needs_x(want),
            want_y=want.y,
            want_x_bias=want.x_bias,
            want_y_bias=want.y_bias,
            workspace_bytes=self.workspace_bytes,
            **_arguments(biases, pairs),
        )
        return _gradients(parts, x, want)

    def nll(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        link: str, weight: Tensor | None, target: Tensor | None, want: Want,
    ) -> tuple[Tensor, Tensor, Gradients]:  # fmt: skip
        """Row losses, the coefficients weight * link' (M,), and the gradients of Σ_i weight_i loss_i."""
        loss, _, coefficient, dx, dy, dscale, dx_bias, dy_bias = _core.pair_nll(
            _matrix(x),
            _matrix(y),
            float(scale),
            link=cast("Literal['lse', 'softplus']", link),
            weight=_floats(weight),
            target=_floats(target),
            want_x=_needs_x(want),
            want_y=want.y,
            want_x_bias=want.x_bias,
            want_y_bias=want.y_bias,
            workspace_bytes=self.workspace_bytes,
            **_arguments(biases, pairs),
        )
        return (
            torch.from_numpy(loss),
            torch.from_numpy(coefficient),
            _gradients((dx, dy, dscale, dx_bias, dy_bias), x, want),
        )

    def softplus(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        weight: Tensor | None, want: Want,
    ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """Row sums (M,) of softplus over the kept pairs, and the gradients of Σ_i weight_i rows_i."""
        rows, dx, dy, dscale, dx_bias, dy_bias = _core.pair_softplus(
            _matrix(x),
            _matrix(y),
            float(scale),
            weight=_floats(weight),
            want_x=_needs_x(want),
            want_y=want.y,
            want_x_bias=want.x_bias,
            want_y_bias=want.y_bias,
            workspace_bytes=self.workspace_bytes,
            **_arguments(biases, pairs),
        )
        return torch.from_numpy(rows), _gradients((dx, dy, dscale, dx_bias, dy_bias), x, want)

    def self_lse(self, z: Tensor, scale: Scale, pairs: Pairs) -> Tensor:
        """Row log-sum-exps (M,) of z against itself without the diagonal, from the half above it."""
        above = pairs._replace(diagonal="above")
        row, column, _, _ = self.lse(z, z, scale, (None, None), above, True, True, False, False)
        assert row is not None and column is not None
        return torch.logaddexp(row, column)

    def self_grad(self, z: Tensor, scale: Scale, pairs: Pairs, row: Tensor, grad: Tensor, want: Want) -> Gradients:
        """Gradients of Σ grad * row by z, both of its roles, and by the scale."""
        above = pairs._replace(diagonal="above")
        both = Want(x=want.x, y=want.x, scale=want.scale)
        found = self.grad(z, z, scale, (None, None), above, (row, row), (grad, grad, None), None, both)
        return found if found.x is None or found.y is None else found._replace(x=found.x + found.y, y=None)

    def nested_lse(
        self, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int],
        normalize: bool, row: bool, column: bool, own: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Row (K, M) and column (K, N) log-sum-exps and own scores (K, min(M, N)) of ascending prefixes."""
        found = _core.nested_lse(
            _matrix(x), _matrix(y), dims, float(scale), normalize=normalize,
            want_row=row, want_column=column, want_own=own, **_pairs_arguments(pairs),
        )  # fmt: skip
        return _tensor(found[0]), _tensor(found[1]), _tensor(found[2])

    def nested_grad(
        self, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], normalize: bool,
        lse: tuple[Tensor | None, Tensor | None], grads: tuple[Tensor | None, Tensor | None, Tensor | None], want: Want,
    ) -> Gradients:  # fmt: skip
        """Gradients for those of what :meth:`nested_lse` returned."""
        row_grad, column_grad, own_grad = grads
        dx, dy, dscale = _core.nested_grad(
            _matrix(x), _matrix(y), dims, float(scale), normalize=normalize,
            row_lse=_floats(lse[0]) if row_grad is not None else None, row_grad=_floats(row_grad),
            column_lse=_floats(lse[1]) if column_grad is not None else None, column_grad=_floats(column_grad),
            diagonal_grad=_floats(own_grad), want_x=_needs_x(want), want_y=want.y,
            workspace_bytes=len(dims) * self.workspace_bytes, **_pairs_arguments(pairs),
        )  # fmt: skip
        return _gradients((dx, dy, dscale, None, None), x, want)

    def nested_nll(
        self, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], weight: Tensor, normalize: bool,
        want: Want,
    ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """log(1 + exp(lse - own score)) (K, M) of ascending prefixes, and the gradients of Σ weight * loss."""
        weights = _floats(weight)
        assert weights is not None
        loss, dx, dy, dscale = _core.nested_nll(
            _matrix(x), _matrix(y), dims, float(scale), weights, normalize=normalize, want_x=_needs_x(want),
            want_y=want.y, workspace_bytes=len(dims) * self.workspace_bytes, **_pairs_arguments(pairs),
        )  # fmt: skip
        return torch.from_numpy(loss), _gradients((dx, dy, dscale, None, None), x, want)

    def rank(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Per row, how many kept scores are above its target (None: its own score), and how many equal it."""
        above, equal = _core.pair_rank(
            _matrix(x), _matrix(y), float(scale), _floats(target), **_arguments(biases, pairs)
        )
        return torch.from_numpy(above), torch.from_numpy(equal)

    def stats(self, bank: Tensor, y: Tensor, betas: list[float], k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """lse (len(betas), Ny), mean (Ny,), variance (Ny,), k largest (k, Ny) of <bank_i, y_j> over the bank."""
        lse, mean, var, top = _core.pair_stats(_matrix(bank), _matrix(y), betas, k, num_threads=torch.get_num_threads())
        parts = torch.from_numpy(lse), torch.from_numpy(mean), torch.from_numpy(var), torch.from_numpy(top)
        return parts[0].float(), parts[1].float(), parts[2].float(), parts[3]

    def topk(
        self, x: Tensor, y: Tensor, k: int, y_scale: Tensor | None, y_bias: Tensor | None, pairs: Pairs
    ) -> tuple[Tensor, Tensor]:
        """The k largest y_scale_j <x_i, y_j> + y_bias_j of each row and their columns, ties by the smaller column."""
        scores, ids = _core.pair_topk(
            _matrix(x),
            _matrix(y),
            k,
            y_scale=_floats(y_scale),
            y_bias=_floats(y_bias),
            indptr=_ints(pairs.indptr),
            indices=_ints(pairs.indices),
            diagonal=cast("Literal['keep', 'skip', 'flip']", pairs.diagonal),
            num_threads=torch.get_num_threads(),
        )
        return torch.from_numpy(scores), torch.from_numpy(ids)


def _needs_x(want: Want) -> bool:
    """dscale comes with dX or dY; with both towers frozen dX is made for its sake."""
    return want.x or (want.scale and not want.y)
