"""Each drop-in loss beside its original, loss and gradients of both embeddings: time and extra peak memory.

The libraries are called as their documentation says, with their defaults and a learnt scale where they have one. At the
largest batch the contenders run in processes of their own, as in every race. Smaller batches are done in one process
by turns, as starting a library takes longer than they do. pytorch-metric-learning's NT-Xent is cubic and goes no
further than 128 pairs; its SupCon stores several matrices of (2B, 2B). GISTEmbed's original stores several (B, B, D).
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness import (
    TOLERANCE,
    Bench,
    Case,
    Entry,
    fault,
    inputs,
    measure,
    number,
    print_table,
    python,
    race,
    race_parser,
    release_free_memory,
    rounds_of,
    save,
    step,
)
from machine import Disturbance, PeakMemory, Record, environment

Loss = Callable[[Tensor, Tensor], Tensor]

LARGE = 8192
BATCHES = (512, 2048, LARGE)
SECONDS = 4.0
"""Contenders that take turns stop after this long, once each has run three times."""


class DropIn(NamedTuple):
    """A loss of a library."""

    original: str
    """The module that holds the original's class."""
    ours: str
    make: Callable[[Any], Loss]
    """From either module to the loss of two matrices of embeddings."""
    units: int
    """FLOP that our plan computes, in 2·B·B·D."""
    batches: tuple[int, ...] = BATCHES

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.original.partition(".")[0]) is not None


def clip(library: Any) -> Loss:
    scale, loss = torch.tensor(14.3, requires_grad=True), library.ClipLoss()
    return lambda x, y: loss(x, y, scale)


def siglip(library: Any) -> Loss:
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    loss = library.SigLipLoss()
    return lambda x, y: loss(x, y, scale, bias)


def nt_xent(library: Any) -> Loss:
    loss: Loss = library.NTXentLoss()
    return loss


def ranking(library: Any) -> Loss:
    loss = library.MultipleNegativesRankingLoss(Encoder("embedding"))
    return lambda x, y: loss.compute_loss_from_embeddings([x, y], None)


def cached_ranking(library: Any) -> Loss:
    loss = library.CachedMultipleNegativesRankingLoss(Encoder("embedding"))

    def run(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = loss.calculate_loss([[x], [y]], with_backward=True)  # leaves the gradients in x and y
        return value.detach().requires_grad_()

    return run


def gist(library: Any) -> Loss:
    loss = library.GISTEmbedLoss(Encoder("embedding"), Encoder("guide"))
    return lambda x, y: loss([{"embedding": part, "guide": part.detach()} for part in (x, y)], None)


def with_labels(name: str, library: Any) -> Loss:
    loss = getattr(library, name)()

    def run(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = loss(torch.cat([x, y]), torch.arange(len(x)).repeat(2))
        return value

    return run


class Encoder(nn.Sequential):
    """Hands out embeddings that are there already, in the place of a SentenceTransformer."""

    max_seq_length = 1

    def __init__(self, key: str) -> None:
        super().__init__(nn.Identity())
        self.key = key

    @functools.cached_property
    def tokenizer(self) -> object:
        """GISTEmbedLoss compares the model's and its guide's."""
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.key]}


ST, OUR_ST = "sentence_transformers.sentence_transformer.losses", "sentence_transformers"
PML, OUR_PML = "pytorch_metric_learning.losses", "metric_learning"

DROP_INS = {
    "open_clip.ClipLoss": DropIn("open_clip.loss", "open_clip", clip, 4),
    "open_clip.SigLipLoss": DropIn("open_clip.loss", "open_clip", siglip, 3),
    "lightly.NTXentLoss": DropIn("lightly.loss", "lightly", nt_xent, 12),
    "sentence_transformers.MultipleNegativesRankingLoss": DropIn(ST, OUR_ST, ranking, 3),
    "sentence_transformers.CachedMultipleNegativesRankingLoss": DropIn(ST, OUR_ST, cached_ranking, 3),
    "sentence_transformers.GISTEmbedLoss": DropIn(ST, OUR_ST, gist, 12, (320,)),
    "metric_learning.SupConLoss": DropIn(PML, OUR_PML, functools.partial(with_labels, "SupConLoss"), 12, (512, 2048)),
    "metric_learning.NTXentLoss": DropIn(PML, OUR_PML, functools.partial(with_labels, "NTXentLoss"), 12, (128,)),
}
QUICK = ("sentence_transformers.MultipleNegativesRankingLoss",)


@functools.cache
def loss_of(name: str, ours: bool) -> Loss:
    drop_in = DROP_INS[name]
    return drop_in.make(importlib.import_module(f"simtile.integrations.{drop_in.ours}" if ours else drop_in.original))


def simtile(x: Tensor, y: Tensor, name: str) -> tuple[Tensor]:
    return (loss_of(name, True)(x, y),)


def original(x: Tensor, y: Tensor, name: str) -> tuple[Tensor]:
    return (loss_of(name, False)(x, y),)


BENCH = Bench(
    file=__file__,
    option="loss",
    variants={name: drop_in.units for name, drop_in in DROP_INS.items()},
    contenders={"simtile": simtile, "original": original},
    exact=original,
)


def by_turns(case: Case) -> Record:
    """Both contenders in this process: milliseconds of each, the median ratio of neighbours in time, extra memory.

    One thread never waits, so that it is measured in CPU time.
    """
    clock = time.process_time if case.threads == 1 else time.perf_counter
    record: Record = {"loss": case.variant, "batch": case.batch, "dim": case.dim}
    wrong = {name: why for name, run in BENCH.contenders.items() if (why := fault(BENCH, run, case)) is not None}
    if wrong:
        return record | {"wrong": wrong}
    x, y = (t.requires_grad_() for t in inputs(case))
    extra: dict[str, float] = {}
    for name, run in BENCH.contenders.items():
        step(run, x, y, case.variant, backward=True)
        release_free_memory()
        with PeakMemory() as memory:
            step(run, x, y, case.variant, backward=True)
        extra[name] = round(memory.extra / 1e6, 1)
    times: dict[str, list[float]] = {name: [] for name in BENCH.contenders}
    begin = time.perf_counter()
    while len(times["original"]) < 3 or time.perf_counter() - begin < SECONDS:
        for name, run in BENCH.contenders.items():
            start = clock()
            step(run, x, y, case.variant, backward=True)
            times[name].append(1e3 * (clock() - start))
    ratio = statistics.median(theirs / mine for mine, theirs in zip(times["simtile"], times["original"], strict=True))
    middle = {name: round(statistics.median(found), 3) for name, found in times.items()}
    return record | {"wrong": {}, "ms": middle, "extra_mb": extra, "ratio": ratio, "rounds": len(times["simtile"])}


def row_of_race(entries: Sequence[Entry]) -> Record:
    """The same of contenders that ran in processes of their own."""
    case = entries[0].case
    record: Record = {"loss": case.variant, "batch": case.batch, "dim": case.dim}
    wrong = {entry.contender: entry.wrong for entry in entries if entry.wrong is not None}
    if wrong:
        return record | {"wrong": wrong}
    mine, theirs = entries
    return record | {
        "wrong": {},
        "ms": {entry.contender: entry.median for entry in entries},
        "extra_mb": {entry.contender: entry.extra_mb for entry in entries},
        "ratio": theirs.median / mine.median,
        "conservative": theirs.best / max(mine.medians),
    }


def line(row: Record) -> list[object]:
    """A row of the table."""
    start: list[object] = [row["loss"], row["batch"]]
    if row["wrong"]:
        return [*start, f"WRONG, not timed: {row['wrong']}"]
    ms, extra = row["ms"], row["extra_mb"]
    # Beside a batch of nothing the smallest figure that the system can tell is a page.
    less = extra["original"] / max(extra["simtile"], 0.1)
    return [
        *start, f"{ms['simtile']:.2f}", f"{ms['original']:.2f}", f"{row['ratio']:.2f}x",
        number(row.get("conservative"), "{:.2f}x"), f"{extra['simtile']:.1f}", f"{extra['original']:.1f}",
        f"{less:.1f}x",
    ]  # fmt: skip


def run(options: argparse.Namespace) -> Record:
    """All drop-ins whose library is installed, with --quick the main ones; prints the table."""
    rows: list[Record] = []
    for name, drop_in in DROP_INS.items():
        if options.quick and name not in QUICK:
            continue
        if not drop_in.installed:
            print(f"{name}: {drop_in.original.partition('.')[0]} is not installed")
            continue
        small = [
            batch for batch in drop_in.batches if batch < LARGE and not (options.quick and batch > drop_in.batches[0])
        ]
        arguments = ("--by-turns", ",".join(map(str, small)), "--loss", name, "--threads", str(options.threads))
        rows += python(__file__, *arguments, threads=options.threads)["rows"]
        if LARGE in drop_in.batches and not options.quick:
            case = Case(name, "float32", LARGE, 384, options.threads)
            rows += [row_of_race(entries) for entries in race(BENCH, [case], **rounds_of(options, main=False))]
    print_table(
        f"Drop-ins beside their originals, float32, D = 384, {options.threads} threads: ms, and MB beside inputs",
        ("loss", "B", "simtile", "original", "faster", "conservative", "MB", "original", "less"),
        map(line, rows),
    )
    versions = {
        name: importlib.metadata.version(name)
        for name in ("open_clip_torch", "lightly", "sentence-transformers", "pytorch-metric-learning")
        if importlib.util.find_spec(name.replace("-", "_").removesuffix("_torch")) is not None
    }
    return {"versions": versions, "rows": rows}


def main() -> None:
    parser = race_parser(__doc__)
    parser.add_argument("--by-turns", help="measure these batches, 512,2048, in this process")
    parser.add_argument("--one", choices=BENCH.contenders, help="measure one contender in this process")
    parser.add_argument("--loss", choices=BENCH.variants, default=next(iter(BENCH.variants)))
    parser.add_argument("--dtype", choices=[str(d).removeprefix("torch.") for d in TOLERANCE], default="float32")
    parser.add_argument("--batch", type=int, default=LARGE)
    parser.add_argument("--dim", type=int, default=384)
    options: argparse.Namespace = parser.parse_args()
    if options.one:
        case = Case(options.loss, options.dtype, options.batch, options.dim, options.threads)
        print(json.dumps(measure(BENCH, options.one, case, options.repeats or 3)))
    elif options.by_turns:
        torch.set_num_threads(options.threads)
        batches = map(int, options.by_turns.split(","))
        cases = [Case(options.loss, options.dtype, batch, options.dim, options.threads) for batch in batches]
        with Disturbance() as disturbance:
            rows = [by_turns(case) for case in cases]
        print(json.dumps({"rows": rows, "steal": disturbance.steal, "others": disturbance.others}))
    else:
        record = {"machine": environment(options.threads), "drop_ins": run(options)}
        print(f"\n{save('drop_ins', record, keep=options.record)}")


if __name__ == "__main__":
    main()
