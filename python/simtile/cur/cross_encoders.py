"""Cross-encoders as scorers: sentence-transformers, Hugging Face sequence classifiers, ONNX files, yes/no answers of a
language model. Each library is imported by whoever made the model, never here, except onnxruntime and tokenizers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.cur.scorers import Limits, Pair, Scorer

__all__ = ["OnnxScorer", "SentenceTransformersScorer", "TransformersScorer", "YesNoScorer"]


class SentenceTransformersScorer(Scorer):
    """A `sentence_transformers.CrossEncoder` with one label.

    Parameters
    ----------
    model : CrossEncoder      its activation is its own affair: scores are what ``predict`` returns
    version : str, optional      by default the model's name
    limits : Limits, optional      ``batch_size`` pairs go to ``predict`` at once
    """

    def __init__(self, model: Any, *, version: str | None = None, limits: Limits | None = None) -> None:
        labels = getattr(model, "num_labels", 1)
        if labels != 1:
            raise ValueError(f"model: a cross-encoder with one label, got {labels}")
        self._model = model
        self.version = version or _name_of(model, getattr(model, "config", None))
        self.limits = limits or Limits()

    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        answer = self._model.predict(
            [tuple(pair) for pair in pairs], batch_size=len(pairs), show_progress_bar=False, convert_to_numpy=True
        )
        scores: list[float] = np.asarray(answer, dtype=np.float64).reshape(-1).tolist()
        return scores


class TransformersScorer(Scorer):
    """A `transformers` sequence classifier and its tokenizer.

    Parameters
    ----------
    model : PreTrainedModel      with logits (B, labels)
    tokenizer : PreTrainedTokenizerBase
    label : int      which logit is the score
    max_length : int, optional      in tokens; by default the tokenizer's own
    version, limits      as in :class:`~simtile.cur.Scorer`
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        label: int = 0,
        max_length: int | None = None,
        version: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._model, self._tokenizer, self._label, self._max_length = model.eval(), tokenizer, label, max_length
        self.version = version or _name_of(model, getattr(model, "config", None))
        self.limits = limits or Limits()

    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        import torch

        features = self._tokenizer(
            [query for query, _ in pairs],
            [item for _, item in pairs],
            padding=True,
            truncation="longest_first",
            max_length=self._max_length,
            return_tensors="pt",
        ).to(self._model.device)
        with torch.inference_mode():
            logits = self._model(**features).logits
        scores: list[float] = logits[:, self._label].double().tolist()
        return scores


class YesNoScorer(Scorer):
    """How much more likely a causal language model answers yes than no: the logit of "yes" minus that of "no".

    Parameters
    ----------
    model : PreTrainedModel      causal, with logits (B, T, vocabulary)
    tokenizer : PreTrainedTokenizerBase      padded on the left for the call
    prompt : callable (query, item) -> str      ends where the answer begins
    yes, no : str      their first token is compared
    version, limits      as in :class:`~simtile.cur.Scorer`; the version should change with the prompt

    Notes
    -----
    The relevance-generation prompt of Liang et al. 2022, arXiv:2211.09110, as Qwen3-Reranker and others use it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: Callable[[Any, Any], str],
        *,
        yes: str = "yes",
        no: str = "no",
        version: str,
        limits: Limits | None = None,
    ) -> None:
        self._model, self._tokenizer, self._prompt = model.eval(), tokenizer, prompt
        self._answers = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in (yes, no)]
        if self._answers[0] == self._answers[1]:
            raise ValueError(f"yes, no: different first tokens, got {yes!r} and {no!r}")
        self.version = version
        self.limits = limits or Limits(batch_size=8)

    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        import torch

        features = self._tokenizer(
            [self._prompt(query, item) for query, item in pairs],
            padding=True,
            padding_side="left",  # so that every prompt ends at the last position
            return_tensors="pt",
        ).to(self._model.device)
        with torch.inference_mode():
            last = self._model(**features).logits[:, -1, self._answers].double()
        scores: list[float] = (last[:, 0] - last[:, 1]).tolist()
        return scores


class OnnxScorer(Scorer):
    """A cross-encoder as an ONNX file, by onnxruntime and tokenizers: neither torch nor a download.

    Parameters
    ----------
    model : path      a graph with inputs ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``, and logits
        (B, 1)
    tokenizer : path      a ``tokenizer.json``
    max_query_tokens, max_item_tokens : int      each text is cut there
    threads : int
    version, limits      as in :class:`~simtile.cur.Scorer`

    Notes
    -----
    Texts of a call are padded to the longest. A graph that quantises activations gives a batch one scale, so that
    scores depend on what else is in the batch: for such a model leave ``batch_size`` at 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        tokenizer: str | os.PathLike[str],
        *,
        max_query_tokens: int = 64,
        max_item_tokens: int = 256,
        threads: int = 1,
        version: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = onnxruntime.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(os.fspath(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._special = [self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")]
        if None in self._special:
            raise ValueError("tokenizer: one with [CLS] and [SEP], as BERT's")
        self._most = (max_query_tokens, max_item_tokens)
        self.version = version or f"{Path(model).parent.name}/{Path(model).name}"
        self.limits = limits or Limits(batch_size=1)

    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        cls, sep = self._special
        sides = [
            [
                e.ids[:most]
                for e in self._tokenizer.encode_batch([pair[side] for pair in pairs], add_special_tokens=False)
            ]
            for side, most in enumerate(self._most)
        ]
        width = max(len(query) + len(item) for query, item in zip(*sides, strict=True)) + 3
        feeds: dict[str, NDArray[np.int64]] = {
            name: np.zeros((len(pairs), width), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        for row, (query, item) in enumerate(zip(*sides, strict=True)):
            tokens = [cls, *query, sep, *item, sep]
            feeds["input_ids"][row, : len(tokens)] = tokens
            feeds["attention_mask"][row, : len(tokens)] = 1
            feeds["token_type_ids"][row, len(query) + 2 : len(tokens)] = 1
        logits = self._session.run(None, {name: feeds[name] for name in feeds if name in self._inputs})[0]
        scores: list[float] = np.asarray(logits, dtype=np.float64)[:, 0].tolist()
        return scores


def _name_of(model: Any, config: Any) -> str:
    name = getattr(config, "_name_or_path", "") or getattr(config, "name_or_path", "")
    if not name:
        raise ValueError(f"version: {type(model).__name__} has no name, so the version must be given")
    return str(name)
