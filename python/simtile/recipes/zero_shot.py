"""Which module of the standard library a text belongs to, told from keywords alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from simtile.evaluation.label_vectors import classify, label_vectors
from simtile.evaluation.retrieved_probe import average_weights, linear_probe, retrieve_for_classes
from simtile.recipes.claim import Outcome
from simtile.recipes.code_vectors import CodeVectors, code_vectors, texts

KEYWORDS = {
    "asyncio": ("event loop", "coroutine", "task", "future", "awaitable", "transport", "protocol"),
    "logging": ("log", "logger", "handler", "record", "level", "formatter", "logging"),
    "mailbox": ("mailbox", "message", "folder", "mail", "key", "flags"),
    "tkinter": ("widget", "window", "canvas", "button", "menu", "screen"),
    "xml": ("xml", "element", "parser", "node", "document", "attribute", "namespace"),
    "zipfile": ("zip", "archive", "compress", "extract", "file", "directory"),
}


def lbl2tvec(*, max_pairs: int, documents: int) -> Outcome:
    """Docstrings classified by label vectors of ``documents`` docstrings each, and by the keywords' means."""
    pairs, truth = _of_classes(max_pairs)
    rows = pairs.query[truth >= 0]
    truth = truth[truth >= 0]
    keywords = [texts(words) for words in KEYWORDS.values()]
    accuracies = {}
    for name, labels in (
        ("keywords alone", np.stack([part.mean(axis=0) for part in keywords])),
        ("label vectors", label_vectors(keywords, rows, least=documents, most=documents)),
        ("label vectors, outliers kept", label_vectors(keywords, rows, least=documents, most=documents, clean=False)),
    ):
        accuracies[name] = _balanced(classify(rows, labels)[0], truth)
    table = {"texts": float(len(rows)), "chance": 1 / len(KEYWORDS), **accuracies}
    return Outcome(accuracies["label vectors"], accuracies["keywords alone"], table)


def real(*, max_pairs: int, per_class: int, weight_decay: float) -> Outcome:
    """Functions classified by the keywords, and by a probe on functions whose docstrings the keywords retrieved."""
    pairs, truth = _of_classes(max_pairs)
    pool = np.arange(len(truth)) % 2 == 0
    tested = ~pool & (truth >= 0)
    prompts = np.stack([texts(words).mean(axis=0) for words in KEYWORDS.values()])
    found = retrieve_for_classes(prompts, pairs.query[pool], per_class=per_class)
    features = torch.from_numpy(pairs.code[pool][found.ids])
    labels = torch.arange(len(prompts)).repeat_interleave(torch.from_numpy(np.diff(found.indptr)))
    start = torch.from_numpy(prompts)
    probe = linear_probe(start, features, labels, weight_decay=weight_decay)
    weights = {"zero-shot": start, "probe": probe, "probe and zero-shot averaged": average_weights(start, probe)}
    accuracies = {
        name: _balanced(classify(pairs.code[tested], part.numpy())[0], truth[tested]) for name, part in weights.items()
    }
    right = truth[pool][found.ids] == labels.numpy()
    table = {"retrieved functions of the right module": float(right.mean()), "chance": 1 / len(prompts), **accuracies}
    return Outcome(accuracies["probe and zero-shot averaged"], accuracies["zero-shot"], table)


def _of_classes(max_pairs: int) -> tuple[CodeVectors, NDArray[np.int64]]:
    """All pairs, and the class of each, -1 for other modules."""
    pairs = code_vectors(max_pairs)
    place = {name: c for c, name in enumerate(KEYWORDS)}
    return pairs, np.array([place.get(module, -1) for module in pairs.modules.tolist()])


def _balanced(guess: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean over the classes of their accuracy: modules differ in size."""
    return float(np.mean([(guess[truth == c] == c).mean() for c in np.unique(truth)]))
