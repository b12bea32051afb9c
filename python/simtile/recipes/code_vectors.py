"""Docstrings and functions of the standard library as means of MiniLM's word vectors, without training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simtile.demo.model import MiniLMTokenizer, StaticEncoder, TokenRows, minilm_word_table
from simtile.recipes.tasks import CodePairs

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class CodeVectors:
    """Pairs of a docstring and its function, row by row, and the module both come from."""

    query: Rows
    """(N, 384) docstrings."""
    code: Rows
    """(N, 384) functions."""
    modules: NDArray[np.str_]
    """(N,)"""
    other_code: Rows
    """Functions of other modules."""
    query_tokens: TokenRows
    code_tokens: TokenRows


@functools.cache
def encoder() -> StaticEncoder:
    """Means of word vectors."""
    return StaticEncoder(minilm_word_table())


@functools.cache
def code_vectors(max_pairs: int) -> CodeVectors:
    """The training side of :class:`CodePairs` with as many pairs."""
    task = CodePairs(max_pairs=max_pairs)
    return CodeVectors(
        encoder().encode(task.train_query), encoder().encode(task.train_code),
        np.array([pair.package.partition(":")[2] for pair in task.corpus.train]),
        encoder().encode(task.test_code), task.train_query, task.train_code,
    )  # fmt: skip


def texts(listed: Sequence[str]) -> Rows:
    """(N, 384) any texts."""
    return encoder().encode(MiniLMTokenizer()(listed))


def token_vectors(tokens: TokenRows, row: int) -> Rows:
    """(T, 384) unit vectors of the tokens of one text."""
    places = tokens.tokens[tokens.starts[row] : tokens.starts[row + 1]]
    found = encoder().words.weight.detach().numpy()[places]
    unit: Rows = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit
