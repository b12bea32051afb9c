"""An index as a folder: ``index.json`` (items, queries, settings), ``arrays.safetensors``, ``scores.journal``.

Each has checksums of its own. A journal that ends early is what a crash leaves, and none of its own business: how many
scores it must hold is in ``index.json``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simtile.cur.arrays_file import read_arrays, write_arrays
from simtile.cur.buying import Shop
from simtile.cur.errors import JournalError
from simtile.cur.item_matrix import dequantized, quantized
from simtile.cur.journal import ScoreJournal
from simtile.cur.knowledge import Knowledge
from simtile.cur.learned import Learned
from simtile.cur.lexical import LexicalEncoder
from simtile.cur.posterior import Choice
from simtile.cur.retrieval import Retrieval, RetrieverFunction
from simtile.cur.scorers import Scorer

__all__ = ["load", "save"]

FORMAT = 5
_SAVED = ("mean", "weights", "weight_variance", "query_mean", "latent_map", "latent_variance")
"""Arrays of `Learned` that are kept as they are."""


def save(path: Path, shop: Shop, retrieval: Retrieval, knowledge: Knowledge, queries: Sequence[Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    learned = knowledge.learned
    description = {
        "format": FORMAT,
        "scorer": shop.scorer.version,
        "rank": knowledge.rank,
        "dtype": knowledge.dtype,
        "offset": learned.offset,
        "offset_variance": learned.offset_variance,
        "residual_variance": learned.residual_variance,
        "choices": [[*key, vars(choice)] for key, choice in knowledge.choices.items()],
        "items": shop.items,
        "queries": list(queries),
        "scores": len(shop.journal),
    }
    try:
        text = _sealed(description)
    except TypeError as error:
        raise TypeError(f"items, queries: JSON values, to be saved; {error}") from error
    arrays: dict[str, Any] = {"allowed": retrieval.allowed, **{name: getattr(learned, name) for name in _SAVED}}
    vectors_of = {"factors": learned.factors, "embeddings": retrieval.embeddings, "words": retrieval.words}
    for name, vectors in vectors_of.items():
        if vectors is not None:
            arrays.update({f"{name}.{part}": array for part, array in quantized(vectors, knowledge.dtype).items()})
    if retrieval.lexical is not None:
        arrays |= {
            "lexical.frequencies": retrieval.lexical.frequencies,
            "lexical.components": retrieval.lexical.components,
        }
    if knowledge.query_features is not None:
        arrays["query_features"] = knowledge.query_features
    if knowledge.listed:
        arrays["listed"] = np.concatenate(knowledge.listed)
        arrays["listed_counts"] = np.array([len(ids) for ids in knowledge.listed])
    journal = path / "scores.journal"
    if shop.journal.path is None or not journal.exists() or not journal.samefile(shop.journal.path):
        unfinished = path / "scores.journal.unfinished"
        unfinished.unlink(missing_ok=True)
        shop.journal.copy_to(unfinished)
        unfinished.replace(journal)
    write_arrays(path / "arrays.safetensors", arrays)
    unfinished = path / "index.json.unfinished"
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path / "index.json")


def load(
    path: Path, scorer: Scorer, function: RetrieverFunction | None
) -> tuple[Shop, Retrieval, Knowledge, list[Any]]:
    description = _opened(path / "index.json")
    if description["scorer"] != scorer.version:
        raise ValueError(
            f"scorer: version {description['scorer']!r}, as the index was built with, got {scorer.version!r}"
        )
    arrays = read_arrays(path / "arrays.safetensors")
    items, dtype = description["items"], description["dtype"]
    lexical = None
    if "lexical.components" in arrays:
        lexical = LexicalEncoder(arrays["lexical.frequencies"], arrays["lexical.components"])
    retrieval = Retrieval(
        len(items), _vectors(arrays, "embeddings"), function, dtype, lexical, _vectors(arrays, "words")
    )
    retrieval.allowed = arrays["allowed"].copy()
    knowledge = Knowledge(description["rank"], dtype, arrays.get("query_features"))
    if "listed" in arrays:
        knowledge.listed = np.split(arrays["listed"], np.cumsum(arrays["listed_counts"])[:-1])
    factors = _vectors(arrays, "factors")
    assert factors is not None
    names = ("offset", "offset_variance", "residual_variance")
    kept: dict[str, Any] = {name: arrays[name] for name in _SAVED} | {name: description[name] for name in names}
    learned = Learned(factors=factors.astype(np.float64), **kept)
    journal = ScoreJournal.read(path / "scores.journal", version=scorer.version)
    if len(journal) < description["scores"]:
        raise JournalError(f"{path}: cut short: {len(journal)} of the {description['scores']} scores it was saved with")
    shop = Shop(scorer, journal, items)
    numbers = shop.journal.query_numbers(description["queries"])
    choices = {
        (k, budget, rounds, centred): Choice(**chosen) for k, budget, rounds, centred, chosen in description["choices"]
    }
    knowledge.restore(shop.rows_of(numbers), learned, choices)
    return shop, retrieval, knowledge, description["queries"]


def _sealed(description: dict[str, Any]) -> str:
    """JSON that holds the checksum of all of it but that."""
    return json.dumps({**description, "checksum": zlib.crc32(json.dumps(description).encode())})


def _opened(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        found, checksum = description["format"], description.pop("checksum", None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JournalError(f"{path}: not the description of an index, or damaged: {error}") from None
    if found != FORMAT:
        raise ValueError(f"{path}: format {FORMAT}, got {found}")
    if checksum != zlib.crc32(json.dumps(description).encode()):
        raise JournalError(f"{path}: damaged: its checksum differs")
    return dict(description)


def _vectors(arrays: dict[str, Any], name: str) -> Any:
    parts = {part: arrays[f"{name}.{part}"] for part in ("values", "scale") if f"{name}.{part}" in arrays}
    return dequantized(parts) if parts else None
