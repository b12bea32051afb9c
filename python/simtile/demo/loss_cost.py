"""Time and memory of one loss step, simtile beside plain torch, each in a process of its own.

A process of its own because a peak of resident memory belongs to a process, and because two thread pools in one process
slow each other down. The parent writes the batch to a file and starts ``python -m simtile.demo.loss_cost`` for each
contender in turn, several times over, so that a change in the machine's load meets both.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

CONTENDERS = ("torch", "simtile")
WARM_UP_ROWS = 256  # starts the thread pools and loads what is loaded lazily, without the memory of the real batch


@dataclass(frozen=True)
class LossCost:
    """One contender: milliseconds of each forward + backward, and the growth of peak resident memory in MB.

    `extra_mb` is None where the system does not tell a process its peak. Two-sided gradients of both inputs are part of
    it: nobody can do without them.
    """

    times_ms: tuple[float, ...]
    extra_mb: float | None
    loss: float

    @property
    def median_ms(self) -> float:
        """Median over all repeats of all processes."""
        return statistics.median(self.times_ms)


@dataclass(frozen=True)
class LossComparison:
    """Both contenders on one batch, and how far simtile's results are from torch's.

    The difference of gradients is max |a - b| / max |b|, over the gradients of queries and codes.
    """

    batch: int
    dim: int
    temperature: float
    costs: dict[str, LossCost]
    loss_difference: float
    gradient_difference: float


def compare_losses(
    query: NDArray[np.float32], key: NDArray[np.float32], temperature: float, *, rounds: int = 2, repeats: int = 3
) -> LossComparison:
    """Measure both contenders on one batch.

    Parameters
    ----------
    query, key : float32 (B, D)
        Embeddings before normalisation.
    temperature : float
    rounds : int
        Processes per contender, in alternation.
    repeats : int
        Timed steps per process.

    Raises
    ------
    RuntimeError
        If a process fails; its last lines are in the message.
    """
    costs: dict[str, list[LossCost]] = {name: [] for name in CONTENDERS}
    gradients: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory(prefix="simtile-demo-") as folder:
        batch_path = Path(folder, "batch.npz")
        np.savez(batch_path, query=query, key=key, temperature=temperature)
        for _ in range(rounds):
            for name in CONTENDERS:
                result_path = Path(folder, f"{name}.npz")
                command = [sys.executable, "-m", __name__, name, str(batch_path), str(result_path), str(repeats)]
                process = subprocess.run(command, capture_output=True, text=True, check=False)
                if process.returncode:
                    raise RuntimeError(f"measuring the loss of {name} failed:\n{process.stderr[-2_000:]}")
                with np.load(result_path) as result:
                    memory = float(result["extra_mb"])
                    costs[name].append(
                        LossCost(
                            times_ms=tuple(result["times_ms"].tolist()),
                            extra_mb=None if np.isnan(memory) else memory,
                            loss=float(result["loss"]),
                        )
                    )
                    gradients[name] = np.stack([result["query_grad"], result["key_grad"]])
    merged = {name: _merge(runs) for name, runs in costs.items()}
    exact, ours = merged["torch"].loss, merged["simtile"].loss
    scale = float(np.abs(gradients["torch"]).max())
    return LossComparison(
        batch=len(query),
        dim=query.shape[1],
        temperature=temperature,
        costs=merged,
        loss_difference=abs(ours - exact) / abs(exact),
        gradient_difference=float(np.abs(gradients["simtile"] - gradients["torch"]).max()) / scale,
    )


def _merge(runs: list[LossCost]) -> LossCost:
    memory = [run.extra_mb for run in runs if run.extra_mb is not None]
    return LossCost(
        times_ms=tuple(time_ms for run in runs for time_ms in run.times_ms),
        extra_mb=max(memory) if memory else None,
        loss=runs[0].loss,
    )


def _measure(name: str, batch_path: Path, result_path: Path, repeats: int) -> None:
    """In the child: run one contender on the batch and write what came out."""
    import torch  # the parent imports this module too, and may only want its classes

    with np.load(batch_path) as batch:
        query = torch.from_numpy(batch["query"]).requires_grad_()
        key = torch.from_numpy(batch["key"]).requires_grad_()
        temperature = float(batch["temperature"])
    loss_function = _loss_function(name)

    def step(query: Tensor, key: Tensor) -> float:
        query.grad = key.grad = None
        loss = loss_function(query, key, temperature)
        loss.backward()
        return loss.item()

    step(*(side.detach()[:WARM_UP_ROWS].clone().requires_grad_() for side in (query, key)))
    gc.collect()
    peak = PeakMemory()
    step(query, key)
    extra_mb = peak.growth_mb()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        loss = step(query, key)
        times.append(1e3 * (time.perf_counter() - start))
    assert query.grad is not None and key.grad is not None
    np.savez(
        result_path,
        times_ms=times,
        extra_mb=np.nan if extra_mb is None else extra_mb,
        loss=loss,
        query_grad=query.grad.numpy(),
        key_grad=key.grad.numpy(),
    )


def _loss_function(name: str) -> Callable[[Tensor, Tensor, float], Tensor]:
    import torch
    import torch.nn.functional as F

    if name == "simtile":
        from simtile.functional import info_nce

        return lambda query, key, temperature: info_nce(query, key, temperature=temperature, symmetric=True)

    def plain_info_nce(query: Tensor, key: Tensor, temperature: float) -> Tensor:
        # Scaled before the product, as open_clip does: one (B, B) tensor less than dividing the logits.
        logits = F.normalize(query, dim=1) / temperature @ F.normalize(key, dim=1).T
        labels = torch.arange(len(query))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    return plain_info_nce


class PeakMemory:
    """Growth of this process's peak resident memory since construction.

    On Linux the peak is reset first, through ``/proc/self/clear_refs`` (proc(5)). Elsewhere, or where that is not
    allowed, the growth of the peak over the whole life of the process is taken, which can only be smaller.
    """

    def __init__(self) -> None:
        self._reset = _reset_peak()
        self._start = _status_kb("VmRSS") if self._reset else _lifetime_peak_kb()

    def growth_mb(self) -> float | None:
        """MB (2**20 bytes), or None where the system keeps no record."""
        end = _status_kb("VmHWM") if self._reset else _lifetime_peak_kb()
        return None if end is None or self._start is None else (end - self._start) / 1024


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_kb(field: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return None


def _lifetime_peak_kb() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak  # bytes there, kilobytes elsewhere


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simtile.demo.loss_cost", description="Measure one contender's loss step."
    )
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("batch", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("repeats", type=int)
    arguments = parser.parse_args()
    _measure(arguments.contender, arguments.batch, arguments.result, arguments.repeats)


if __name__ == "__main__":
    _main()
