"""The demo from end to end: harvest, evaluate, train, evaluate again, compare the losses.

`run` does the work and returns everything measured as a `Results`; printing and the report are elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simtile.demo.corpus import Corpus, build_corpus, cache_path, load_corpus, save_corpus
from simtile.demo.evaluate import Retrieval, evaluate
from simtile.demo.harvest import STDLIB_PREFIX, find_source_files, installed_roots
from simtile.demo.loss_cost import LossComparison, compare_losses
from simtile.demo.model import MiniLMTokenizer, StaticEncoder, TokenRows, minilm_word_table
from simtile.demo.progress import Progress
from simtile.demo.train import Step, train

MIN_STEPS_PER_EPOCH = 4  # a small corpus (no extras, --quick) gets a smaller batch rather than too few steps


@dataclass(frozen=True)
class Options:
    """The command line's choices; see `simtile demo --help`."""

    output: Path
    cache_dir: Path
    batch: int
    epochs: int
    max_pairs: int
    max_test: int
    seed: int
    workers: int = 1
    stdlib_only: bool = False
    loss_rounds: int = 2


class TooFewPairsError(ValueError):
    """The installed packages don't give enough pairs to train on and to test with."""


@dataclass
class Results:
    """Everything that the table and the report show. `vectors` are (queries, codes) of the test side."""

    options: Options
    corpus: Corpus
    batch: int
    history: list[Step]
    before: Retrieval
    after: Retrieval
    vectors: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    losses: LossComparison
    seconds: dict[str, float] = field(default_factory=dict)


def run(options: Options) -> Results:
    """Run the whole job; prints a line per stage.

    Raises
    ------
    TooFewPairsError
        If there are too few pairs for `MIN_STEPS_PER_EPOCH` steps of two, or none to test.
    """
    seconds: dict[str, float] = {}
    start = time.monotonic()
    torch.manual_seed(options.seed)

    with _stage("harvest", seconds):
        corpus = obtain_corpus(options)
    if len(corpus.train) < 2 * MIN_STEPS_PER_EPOCH or not corpus.test:
        raise TooFewPairsError(f"{len(corpus.train)} training and {len(corpus.test)} test pairs are too few")
    _print_corpus(corpus)

    with _stage("tokenize", seconds):
        tokens = _tokenize(corpus)
    encoder = StaticEncoder(minilm_word_table())
    with _stage("evaluate before", seconds):
        vectors_before = (encoder.encode(tokens["test query"]), encoder.encode(tokens["test code"]))
        before = evaluate(*vectors_before)
    _print_retrieval("before", before)

    batch = min(options.batch, max(2, len(corpus.train) // MIN_STEPS_PER_EPOCH))
    n_steps = len(corpus.train) // batch * options.epochs
    print(f"training: {n_steps} steps of {batch:,} pairs, {torch.get_num_threads()} threads", flush=True)
    with _stage("train", seconds), Progress("training", n_steps, "steps") as bar:
        history = train(
            encoder,
            tokens["train query"],
            tokens["train code"],
            batch=batch,
            epochs=options.epochs,
            seed=options.seed,
            on_step=lambda step: bar.advance(note=f"loss {step.loss:.3f}, temperature {step.temperature:.4f}"),
        )
    with _stage("evaluate after", seconds):
        vectors_after = (encoder.encode(tokens["test query"]), encoder.encode(tokens["test code"]))
        after = evaluate(*vectors_after)
    _print_retrieval("after", after)

    with _stage("compare losses", seconds):
        rows = np.random.default_rng(options.seed).permutation(len(corpus.train))[:batch]
        with torch.no_grad():
            query, key = (encoder(tokens[f"train {side}"], rows).numpy() for side in ("query", "code"))
        losses = compare_losses(query, key, encoder.temperature.item(), rounds=options.loss_rounds, repeats=2)
    seconds["total"] = time.monotonic() - start
    return Results(
        options=options,
        corpus=corpus,
        batch=batch,
        history=history,
        before=before,
        after=after,
        vectors={"before": vectors_before, "after": vectors_after},
        losses=losses,
        seconds=seconds,
    )


def obtain_corpus(options: Options, *, max_seconds: float = 90.0) -> Corpus:
    """The corpus of this environment, from the cache if it was harvested before, else within so many seconds."""
    stdlib, site_packages = installed_roots()
    sources = find_source_files(stdlib, [] if options.stdlib_only else site_packages)
    path = cache_path(options.cache_dir, sources, options.max_pairs, options.max_test)
    corpus = load_corpus(path)
    if corpus is not None:
        return corpus
    print(f"harvesting docstrings and code from {len(sources):,} installed Python files", flush=True)
    with Progress("harvesting", len(sources), "files") as bar:
        corpus = build_corpus(
            sources,
            max_train=options.max_pairs,
            max_test=options.max_test,
            workers=options.workers,
            max_seconds=max_seconds,
            on_file=lambda _, n_pairs: bar.advance(note=f"{n_pairs:,} pairs"),
        )
    if not corpus.stopped_early:
        try:
            save_corpus(corpus, path)
        except OSError as error:  # a read-only home: the next run harvests again
            print(f"note: the corpus is not cached ({error})", flush=True)
    return corpus


def _tokenize(corpus: Corpus) -> dict[str, TokenRows]:
    """Token ids under "train query", "train code", "test query" and "test code"."""
    tokenizer = MiniLMTokenizer()
    sides = {"train": corpus.train, "test": corpus.test}
    with Progress("tokenizing", 2 * sum(map(len, sides.values())), "texts") as bar:
        return {
            f"{side} {what}": tokenizer([getattr(pair, what) for pair in pairs], on_texts=bar.advance)
            for side, pairs in sides.items()
            for what in ("query", "code")
        }


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def _print_corpus(corpus: Corpus) -> None:
    origin = "from the cache" if corpus.from_cache else f"{corpus.n_files:,} files in {corpus.seconds:.0f} s"
    print(f"corpus {corpus.digest[:12]}: {origin}, {corpus.n_unparsed} unparsable, {corpus.n_duplicates:,} duplicates")
    if corpus.stopped_early:
        print("note: the time limit of the harvest was reached; the corpus is smaller than it could be")
    for side, counts in corpus.pairs_per_package().items():
        grouped = group_stdlib(counts)
        listed = ", ".join(f"{package} {count:,}" for package, count in list(grouped.items())[:8])
        rest = f", {len(grouped) - 8} more" if len(grouped) > 8 else ""
        print(f"  {side:5} {sum(counts.values()):6,} pairs: {listed}{rest}", flush=True)


def group_stdlib(counts: dict[str, int]) -> dict[str, int]:
    """Pairs per package with the standard library's modules as one row, largest first."""
    grouped: dict[str, int] = {}
    n_modules = sum(package.startswith(STDLIB_PREFIX) for package in counts)
    for package, count in counts.items():
        name = f"standard library ({n_modules} modules)" if package.startswith(STDLIB_PREFIX) else package
        grouped[name] = grouped.get(name, 0) + count
    return dict(sorted(grouped.items(), key=lambda item: (-item[1], item[0])))


def _print_retrieval(when: str, retrieval: Retrieval) -> None:
    print(
        f"{when}: recall@1 {retrieval.recall_at_1:.3f}, recall@10 {retrieval.recall_at_10:.3f} "
        f"on {len(retrieval.ids):,} queries of unseen packages",
        flush=True,
    )
