"""The steps of the demo, from files to the report."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import simtile
from simtile.demo.corpus import (
    Corpus,
    build_corpus,
    cache_path,
    default_cache_dir,
    load_corpus,
    save_corpus,
)
from simtile.demo.evaluate import Retrieval, evaluate
from simtile.demo.harvest import find_source_files, installed_roots
from simtile.demo.loss_cost import LossComparison, compare_losses
from simtile.demo.model import MiniLMTokenizer, StaticEncoder, TokenRows, minilm_word_table
from simtile.demo.report import Example, Report, summary, write
from simtile.demo.train import Step, train

MAX_TEST = 5_000
N_EXAMPLES = 8

_Vectors: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Texts:
    """Tokenised queries and codes of one side of the split."""

    queries: TokenRows
    codes: TokenRows


def run(argv: Sequence[str] | None = None) -> int:
    """All steps; returns 0, or 2 with a message when the options cannot be met on this machine."""
    options = _parser().parse_args(argv)
    if options.quick:
        options.max_pairs, options.batch, options.epochs = min(options.max_pairs, 2_000), 512, 3
    torch.manual_seed(options.seed)
    seconds: dict[str, float] = {}
    with _timed(seconds, "harvest"):
        corpus = _corpus(options)
    _print_corpus(corpus)
    if len(corpus.train) < options.batch or not corpus.test:
        print(
            f"simtile demo: found {len(corpus.train)} training and {len(corpus.test)} test pairs, and a batch needs "
            f"{options.batch}: install more packages or pass a smaller --batch",
            file=sys.stderr,
        )
        return 2
    with _timed(seconds, "tokenize"):
        tokenizer = MiniLMTokenizer()
        train_texts, test_texts = (_tokenize(tokenizer, corpus, side) for side in ("train", "test"))
    encoder = StaticEncoder(minilm_word_table())
    with _timed(seconds, "search before"):
        before, _, codes_before = _evaluate(encoder, test_texts)
    with _timed(seconds, "train"):
        history = _train(encoder, train_texts, options)
    with _timed(seconds, "search after"):
        after, queries_after, codes_after = _evaluate(encoder, test_texts)
    with _timed(seconds, "loss cost"):
        cost = _loss_cost(encoder, train_texts, options)
    shown = _examples(corpus, before, after)
    heat = np.asarray([example.row for example in shown])
    untrained = StaticEncoder(minilm_word_table()).encode(test_texts.queries)
    report = Report(
        corpus=corpus,
        history=history,
        before=before,
        after=after,
        cost=cost,
        examples=shown,
        heat_before=_cosines(untrained[heat], codes_before[heat]),
        heat_after=_cosines(queries_after[heat], codes_after[heat]),
        seconds=seconds,
        options={name: getattr(options, name) for name in ("batch", "epochs", "seed", "max_pairs")},
        machine={
            "processor": _processor(),
            "instruction set": simtile._core.isas()[0],
            "threads": str(torch.get_num_threads()),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "simtile": simtile.__version__,
        },
    )
    page = write(report, options.output)
    print(f"\n{summary(report)}\n\n{page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simtile demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument("--batch", type=int, default=4_096, help="pairs per step")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-pairs", type=int, default=60_000, help="training pairs at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that harvest")
    parser.add_argument("--cache", type=Path, default=default_cache_dir(), help="folder of harvested corpora")
    parser.add_argument("--quick", action="store_true", help="a tiny run: 2,000 pairs, batches of 512")
    return parser


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[step] = time.monotonic() - start


def _bar(total: int, label: str, unit: str) -> tqdm[NoReturn]:
    """A progress bar on a terminal; elsewhere one plain line when the step begins."""
    quiet = not sys.stderr.isatty()
    if quiet:
        print(f"{label} ...", file=sys.stderr, flush=True)
    return tqdm(total=total, desc=label, unit=unit, disable=quiet, leave=False)


def _corpus(options: argparse.Namespace) -> Corpus:
    stdlib, site_packages = installed_roots()
    sources = find_source_files(stdlib, site_packages)
    path = cache_path(options.cache, sources, options.max_pairs, MAX_TEST)
    cached = load_corpus(path)
    if cached is not None:
        return cached
    with _bar(len(sources), "harvest", "file") as bar:

        def on_file(done: int, pairs: int) -> None:
            bar.update(done - bar.n)
            bar.set_postfix(pairs=pairs, refresh=False)

        corpus = build_corpus(
            sources,
            max_train=options.max_pairs,
            max_test=MAX_TEST,
            workers=options.workers,
            on_file=on_file,
        )
    if not corpus.stopped_early:
        save_corpus(corpus, path)
    return corpus


def _print_corpus(corpus: Corpus) -> None:
    origin = "cache" if corpus.from_cache else f"{corpus.n_files:,} files, {corpus.seconds:.0f} s"
    print(f"corpus {corpus.digest[:12]} ({origin}; {corpus.n_unparsed} files could not be parsed)")
    for side, packages in corpus.pairs_per_package().items():
        first = ", ".join(f"{name} {count:,}" for name, count in list(packages.items())[:6])
        print(f"  {side:5s} {sum(packages.values()):6,} pairs of {len(packages)} packages: {first}, ...")


def _tokenize(tokenizer: MiniLMTokenizer, corpus: Corpus, side: str) -> Texts:
    pairs = corpus.train if side == "train" else corpus.test
    with _bar(2 * len(pairs), f"tokenize {side}", "text") as bar:

        def on_texts(done: int) -> None:
            bar.update(done)

        queries = tokenizer([pair.query for pair in pairs], on_texts=on_texts)
        return Texts(queries, tokenizer([pair.code for pair in pairs], on_texts=on_texts))


def _evaluate(encoder: StaticEncoder, texts: Texts) -> tuple[Retrieval, _Vectors, _Vectors]:
    queries, codes = encoder.encode(texts.queries), encoder.encode(texts.codes)
    return evaluate(queries, codes), queries, codes


def _train(encoder: StaticEncoder, texts: Texts, options: argparse.Namespace) -> list[Step]:
    steps = len(texts.queries) // options.batch * options.epochs
    with _bar(steps, f"train {steps} steps", "step") as bar:

        def on_step(step: Step) -> None:
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            bar.update()

        return train(
            encoder,
            texts.queries,
            texts.codes,
            batch=options.batch,
            epochs=options.epochs,
            seed=options.seed,
            on_step=on_step,
        )


def _loss_cost(encoder: StaticEncoder, texts: Texts, options: argparse.Namespace) -> LossComparison:
    """One real batch of the trained encoder."""
    rows = np.arange(options.batch)
    with _bar(1, "loss beside plain torch", "run"), torch.no_grad():
        query, key = encoder(texts.queries, rows).numpy(), encoder(texts.codes, rows).numpy()
        return compare_losses(query, key, encoder.temperature.item(), rounds=1 if options.quick else 3)


def _examples(corpus: Corpus, before: Retrieval, after: Retrieval) -> list[Example]:
    """Queries whose own code came first only after training, spread over the test set."""
    rows = np.arange(len(corpus.test))
    learned = rows[(before.ids[:, 0] != rows) & (after.ids[:, 0] == rows)]
    pool = learned if len(learned) >= N_EXAMPLES else rows
    chosen = pool[np.linspace(0, len(pool) - 1, min(N_EXAMPLES, len(pool))).astype(int)]
    return [
        Example(
            row=int(row),
            query=corpus.test[row].query,
            package=corpus.test[row].package,
            before=_first_line(corpus.test[before.ids[row, 0]].code),
            after=_first_line(corpus.test[after.ids[row, 0]].code),
        )
        for row in chosen
    ]


def _first_line(code: str) -> str:
    return next((line for line in code.splitlines() if "def " in line), code.splitlines()[0]).strip()


def _cosines(queries: _Vectors, codes: _Vectors) -> _Vectors:
    def unit(rows: _Vectors) -> _Vectors:
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))

    return np.asarray(unit(queries) @ unit(codes).T)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
