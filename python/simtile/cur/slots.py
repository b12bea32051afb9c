"""An index in the retriever's slot of LangChain, LlamaIndex and Haystack, and in place of ``CrossEncoder.rank``.

    langchain_retriever(Lookup(index, k=10, budget=100, embed=model.encode))      of simtile.integrations.retrievers

A reranker in the postprocessor's slot can only reorder what came before it. In the retriever's slot the scorer decides
which documents are looked at, so it adds recall. The items of the index must be texts, or JSON objects with a "text".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.cur.index import CrossEncoderIndex
from simtile.cur.results import Hit, document

__all__ = ["Lookup", "upgrade_rank"]

Embed = Callable[[list[str]], NDArray[np.floating]]
"""Texts to embeddings (M, e), such as ``SentenceTransformer.encode``."""


class Lookup:
    """Texts and metadata for one query, which is all that the frameworks ask for.

    Parameters
    ----------
    index : CrossEncoderIndex
    k, budget : int
    embed : callable, optional      needed if the index has embeddings
    options      for `CrossEncoderIndex.search`
    """

    def __init__(
        self, index: CrossEncoderIndex, *, k: int = 10, budget: int = 100, embed: Embed | None = None, **options: Any
    ) -> None:  # fmt: skip
        self._index, self._embed = index, embed
        self._options = {"k": k, "budget": budget, **options}

    def __call__(self, query: str) -> list[tuple[str, dict[str, Any], float]]:
        """(text, metadata, score) of each hit; the metadata holds ``corpus_id`` and the item's other fields."""
        embeddings = None if self._embed is None else np.asarray(self._embed([query]))
        hits = self._index.search([query], query_embeddings=embeddings, **self._options)[0]
        return [document(self._index.item(hit["corpus_id"]), hit["corpus_id"], hit["score"]) for hit in hits]


def upgrade_rank(model: Any, index: CrossEncoderIndex, *, budget: int, embed: Embed | None = None) -> None:
    """Give a sentence-transformers ``CrossEncoder``'s ``rank`` a budget: long lists are searched, not scored whole.

    Lists of at most ``budget`` documents go to the model's own ``rank``, as do calls with options that the index does
    not have; ``del model.rank`` undoes it.

    Parameters
    ----------
    model : CrossEncoder      the one that scores in the index, or its equal
    index : CrossEncoderIndex
    budget : int      scorer calls a list
    embed : callable, optional      needed if the index has embeddings
    """
    own: Callable[..., list[Hit]] = model.rank

    def rank(
        query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = False, **options: Any
    ) -> list[Hit]:
        if len(documents) <= budget or options:
            return own(query, documents, top_k=top_k, return_documents=return_documents, **options)
        embedding = None if embed is None else np.asarray(embed([query]))[0]
        return index.rank(
            query,
            documents,
            top_k=top_k,
            budget=budget,
            query_embedding=embedding,
            return_documents=return_documents,
        )

    model.rank = rank
