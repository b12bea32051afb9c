"""The Triton kernels (:mod:`simtile.kernels`) behind the engine interface: tensors of a GPU, or in the interpreter.

bfloat16, float16 and float32 go in as they are. Nothing here waits for the device: a scale that lives there stays
there. Importing this module imports triton; :func:`simtile._plan.engine_for` does so for GPU tensors only.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from simtile._pairs import Gradients, Pairs, Scale, Want, loss_dtype
from simtile._prefixes import own_scores, with_own_scores
from simtile._torch_engine import TorchEngine, chunk_rows
from simtile.kernels.accumulate import WORKSPACE_BYTES, Wanted
from simtile.kernels.launch import TUNED_FILE, load_tuned
from simtile.kernels.nested_grad import nested_lse_bwd
from simtile.kernels.nested_lse import nested_lse_fwd
from simtile.kernels.pair_grad import pair_lse_bwd
from simtile.kernels.pair_lse import pair_lse_fwd
from simtile.kernels.pair_nll import Link, pair_nll_fwd
from simtile.kernels.pair_rank import pair_rank_fwd
from simtile.kernels.pair_softplus import pair_softplus_fwd
from simtile.kernels.pair_stats import pair_stats_fwd
from simtile.kernels.pair_topk import GROUPED, pair_topk_fwd
from simtile.kernels.partial_sums import PARTIALS_BYTES
from simtile.kernels.row_grad import WIDEST, narrow_lse_bwd
from simtile.kernels.self_lse import self_lse_bwd, self_lse_fwd

if TYPE_CHECKING:
    from simtile.kernels.accumulate import PairGrads
    from simtile.kernels.pairs import Direction, IdsMode, PairOptions

TOPK_GROUPS = 4
"""Top-k takes the kernels' two passes where rows have at least this many groups of columns for each one wanted."""


class TritonEngine:
    """The engine interface on the Triton launchers; ``workspace_bytes`` bounds the buffer of coefficients."""

    def __init__(self, workspace_bytes: int = WORKSPACE_BYTES) -> None:
        self.workspace_bytes = workspace_bytes

    def lse(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        row: bool, column: bool, positive: bool, stash: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Row (M,) and column (N,) log-sum-exp, own scores s_ii (min(M, N),), and the stash, float16 bits as int16."""
        M, N = x.shape[0], y.shape[0]
        if not (row or column):
            own = _own_scores(x, y, scale, biases) if positive else None
            return None, None, own, None
        own = torch.empty(M, dtype=torch.float32, device=x.device) if positive else None
        kept = torch.empty((M, N), dtype=torch.float16, device=x.device) if stash else None
        direction: Direction = "both" if row and column else "row" if row else "column"
        rows, columns = pair_lse_fwd(
            x, y, direction=direction, stash=kept, own=own, **_options(x, scale, biases, pairs)
        )
        # Kernels write the own scores of all rows that have a partner; the rest of the buffer is uninitialised.
        return (
            rows,
            columns,
            None if own is None else own[: min(M, N)],
            None if kept is None else kept.view(torch.int16),
        )

    def grad(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        lse: tuple[Tensor | None, Tensor | None], grads: tuple[Tensor | None, Tensor | None, Tensor | None],
        stash: Tensor | None, want: Want,
    ) -> Gradients:  # fmt: skip
        """Gradients for those of the row and column log-sum-exps and of the own scores."""
        M, N = x.shape[0], y.shape[0]
        (row, column), (row_grad, column_grad, own_grad) = lse, grads
        options = _options(x, scale, biases, pairs)
        wanted = Wanted(*want)
        if (
            is_narrow(x.dtype, x.shape[1])
            and stash is None
            and pairs.indptr is None
            and pairs.threshold is None
            and not (want.x_bias or want.y_bias)
            and not (row_grad is None and column_grad is None)
        ):
            found = narrow_lse_bwd(
                x, y, row=row, column=column, grad_row=row_grad, grad_column=column_grad, diagonal=own_grad,
                wanted=wanted, **options,
            )  # fmt: skip
            return _gradients(found)
        if own_grad is not None:
            own_grad = torch.nn.functional.pad(own_grad, (0, M - min(M, N)))
        found = pair_lse_bwd(
            x, y, row=row, column=column, grad_row=row_grad, grad_column=column_grad, diagonal=own_grad,
            stash=None if stash is None else stash.view(torch.float16), wanted=wanted,
            workspace_bytes=self.workspace_bytes, **options,
        )  # fmt: skip
        return _gradients(found)

    def nll(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        link: str, weight: Tensor | None, target: Tensor | None, want: Want,
    ) -> tuple[Tensor, Tensor, Gradients]:  # fmt: skip
        """Row losses, the coefficients weight * link' (M,), and the gradients of Σ_i weight_i loss_i."""
        found = pair_nll_fwd(
            x, y, target, weight=weight, link=cast("Link", link), wanted=Wanted(*want) if any(want) else None,
            workspace_bytes=self.workspace_bytes, **_options(x, scale, biases, pairs),
        )  # fmt: skip
        return found.loss, -found.target_grad, _gradients(found.grads)

    def softplus(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        weight: Tensor | None, want: Want,
    ) -> tuple[Tensor, Gradients]:  # fmt: skip
        """Row sums (M,) of softplus over the kept pairs, and the gradients of Σ_i weight_i rows_i."""
        found = pair_softplus_fwd(
            x, y, weight=weight, wanted=Wanted(*want) if any(want) else None,
            workspace_bytes=self.workspace_bytes, **_options(x, scale, biases, pairs),
        )  # fmt: skip
        return found.rows, _gradients(found.grads)

    def self_lse(self, z: Tensor, scale: Scale, pairs: Pairs) -> Tensor:
        """Row log-sum-exps (M,) of z against itself without the diagonal, from the blocks on and above it."""
        options = _options(z, scale, (None, None), pairs)
        return self_lse_fwd(z, scale=options["scale"], ids=pairs.x_ids, ids_mode=_self_mode(pairs))

    def self_grad(self, z: Tensor, scale: Scale, pairs: Pairs, row: Tensor, grad: Tensor, want: Want) -> Gradients:
        """Gradients of Σ grad * row by z, both of its roles, and by the scale."""
        options = _options(z, scale, (None, None), pairs)
        found = self_lse_bwd(
            z, row, grad, scale=options["scale"], ids=pairs.x_ids, ids_mode=_self_mode(pairs),
            wanted_scale=want.scale, workspace_bytes=self.workspace_bytes,
        )  # fmt: skip
        return _gradients(found)

    def nested_lse(
        self, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int],
        normalize: bool, row: bool, column: bool, own: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Row (K, M) and column (K, N) log-sum-exps and own scores (K, min(M, N)) of ascending prefixes."""
        rows = columns = None
        if row or column:
            direction: Direction = "both" if row and column else "row" if row else "column"
            rows, columns = nested_lse_fwd(
                x, y, dims, normalize=normalize, direction=direction, **_options(x, scale, (None, None), pairs)
            )
        return rows, columns, own_scores(x, y, dims, normalize)[0] * scale if own else None

    def nested_grad(
        self, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], normalize: bool,
        lse: tuple[Tensor | None, Tensor | None], grads: tuple[Tensor | None, Tensor | None, Tensor | None], want: Want,
    ) -> Gradients:  # fmt: skip
        """Gradients for those of what :meth:`nested_lse` returned."""
        row_grad, column_grad, own_grad = grads
        found = nested_lse_bwd(
            x, y, dims, row=lse[0], column=lse[1], grad_row=row_grad, grad_column=column_grad, normalize=normalize,
            wanted=Wanted(*want), workspace_bytes=self.workspace_bytes, **_options(x, scale, (None, None), pairs),
        )  # fmt: skip
        gradients = _gradients(found)
        return gradients if own_grad is None else with_own_scores(gradients, x, y, dims, scale, normalize, own_grad)

    def rank(
        self, x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Per row, how many kept scores are above its target (None: its own score), and how many equal it."""
        return pair_rank_fwd(x, y, target, **_options(x, scale, biases, pairs))

    def stats(self, bank: Tensor, y: Tensor, betas: list[float], k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """lse (len(betas), Ny), mean (Ny,), variance (Ny,), k largest (k, Ny) of <bank_i, y_j> over the bank."""
        lse, mean, var, top = pair_stats_fwd(bank, y, betas=betas, k=k)
        return lse, mean, var, top.contiguous()

    def topk(
        self, x: Tensor, y: Tensor, k: int, y_scale: Tensor | None, y_bias: Tensor | None, pairs: Pairs
    ) -> tuple[Tensor, Tensor]:
        """The k largest y_scale_j <x_i, y_j> + y_bias_j of each row and their columns, ties by the smaller column."""
        M, N = x.shape[0], y.shape[0]
        if TOPK_GROUPS * GROUPED * k > N:
            # Most columns would be scored twice: sorting all scores is less work.
            return TorchEngine(chunk_rows(M, N, 4, self.workspace_bytes)).topk(x, y, k, y_scale, y_bias, pairs)
        return pair_topk_fwd(
            x, y, k, y_scale=y_scale, y_bias=y_bias, exclude=_lists(pairs), workspace_bytes=self.workspace_bytes
        )


@functools.cache
def gpu_engine() -> TritonEngine:
    """The engine for GPU tensors. Its first use reads the launches that ``simtile tune`` chose on this machine."""
    if TUNED_FILE.exists():
        try:
            load_tuned(TUNED_FILE)
        except (OSError, TypeError, ValueError) as error:
            # A file of another version costs speed, not a training run.
            warnings.warn(f"simtile: ignoring tuned launches, run `simtile tune` again: {error}", stacklevel=2)
    return TritonEngine()


def is_narrow(dtype: torch.dtype, D: int) -> bool:
    """Whether log-sum-exps take their gradient in registers: five products, but no coefficients through memory.

    At D = 256 the fifth costs an H100 about 0.9 ps a pair at the rates its data sheet gives; to write a coefficient and
    to read it twice, 1.8 ps.
    """
    return dtype == torch.bfloat16 and D <= WIDEST


def extra_bytes(plan: str, M: int, N: int, D: int, dtype: torch.dtype) -> int:
    """About the most that a plan allocates beside inputs and gradients: sums in float32, partials and workspace."""
    vectors, sums = 16 * (M + N), 4 * (M + N) * D
    partials = min(PARTIALS_BYTES, M * N // 16)
    if plan == "recompute" and is_narrow(dtype, D):
        return vectors + sums + partials
    pair = dtype.itemsize if dtype == torch.float32 or plan != "chunked" else 4 + dtype.itemsize
    stash = 2 * M * N if plan == "stash" else 0
    return vectors + sums + partials + min(WORKSPACE_BYTES, pair * M * N) + stash


def _options(x: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None], pairs: Pairs) -> PairOptions:
    """The launchers' words for a job."""
    if isinstance(scale, Tensor) and scale.device != x.device:
        scale = float(scale)  # a scalar of the CPU: copying it to the device would wait, filling one there does not
    return {
        "scale": scale,
        "x_bias": biases[0],
        "y_bias": biases[1],
        "x_ids": pairs.x_ids,
        "y_ids": pairs.y_ids,
        "ids_mode": cast("IdsMode", pairs.ids_mode),
        "exclude": _lists(pairs),
        "skip_diagonal": pairs.diagonal == "skip",
        "flip_diagonal": pairs.diagonal == "flip",
        "threshold": pairs.threshold,
        "guide": None if pairs.guide_x is None or pairs.guide_y is None else (pairs.guide_x, pairs.guide_y),
    }


def _self_mode(pairs: Pairs) -> Literal["exclude", "only"]:
    return "only" if pairs.ids_mode == "only" else "exclude"


def _lists(pairs: Pairs) -> tuple[Tensor, Tensor] | None:
    return None if pairs.indptr is None or pairs.indices is None else (pairs.indptr, pairs.indices)


def _gradients(found: PairGrads | None) -> Gradients:
    return Gradients() if found is None else Gradients(*found)


def _own_scores(x: Tensor, y: Tensor, scale: Scale, biases: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """(min(M, N),) scores s_ii alone: no pass over the pairs."""
    count, dtype = min(x.shape[0], y.shape[0]), loss_dtype(x)
    own = (x.detach()[:count].to(dtype) * y.detach()[:count].to(dtype)).sum(1) * scale
    for bias in biases:
        if bias is not None:
            own += bias.detach()[:count]
    return own
