"""An index in the retriever's slot of LangChain, LlamaIndex and Haystack, and in place of ``CrossEncoder.rank``.

A reranker in the postprocessor's slot can only reorder what came before it. In the retriever's slot the scorer decides
which documents are looked at, so it adds recall. The items of the index must be texts, or JSON objects with a "text".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.cur.index import CrossEncoderIndex
from simtile.cur.results import Hit

__all__ = ["Lookup", "haystack_retriever", "langchain_retriever", "llama_index_retriever", "upgrade_rank"]

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

    def __init__(self, index: CrossEncoderIndex, k: int, budget: int, embed: Embed | None, **options: Any) -> None:
        self._index, self._embed = index, embed
        self._options = {"k": k, "budget": budget, **options}

    def __call__(self, query: str) -> list[tuple[str, dict[str, Any], float]]:
        """(text, metadata, score) of each hit; the metadata holds ``corpus_id`` and the item's other fields."""
        embeddings = None if self._embed is None else np.asarray(self._embed([query]))
        hits = self._index.search([query], query_embeddings=embeddings, **self._options)[0]
        return [self._document(hit) for hit in hits]

    def _document(self, hit: Hit) -> tuple[str, dict[str, Any], float]:
        item = self._index.item(hit["corpus_id"])
        fields = {"text": item} if isinstance(item, str) else dict(item)
        return fields.pop("text"), {**fields, "corpus_id": hit["corpus_id"], "score": hit["score"]}, hit["score"]


def langchain_retriever(
    index: CrossEncoderIndex, *, k: int = 10, budget: int = 100, embed: Embed | None = None, **options: Any
) -> Any:
    """A ``BaseRetriever`` of LangChain."""
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    lookup = Lookup(index, k, budget, embed, **options)

    class CrossEncoderRetriever(BaseRetriever):  # type: ignore[misc]
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(page_content=text, metadata=metadata) for text, metadata, _ in lookup(query)]

    return CrossEncoderRetriever()


def llama_index_retriever(
    index: CrossEncoderIndex, *, k: int = 10, budget: int = 100, embed: Embed | None = None, **options: Any
) -> Any:
    """A ``BaseRetriever`` of LlamaIndex."""
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    lookup = Lookup(index, k, budget, embed, **options)

    class CrossEncoderRetriever(BaseRetriever):  # type: ignore[misc]
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return [
                NodeWithScore(node=TextNode(text=text, metadata=metadata), score=score)
                for text, metadata, score in lookup(query_bundle.query_str)
            ]

    return CrossEncoderRetriever()


def haystack_retriever(
    index: CrossEncoderIndex, *, k: int = 10, budget: int = 100, embed: Embed | None = None, **options: Any
) -> Any:
    """A component of Haystack 2 with input ``query`` and output ``documents``."""
    from haystack import Document, component

    lookup = Lookup(index, k, budget, embed, **options)

    @component
    class CrossEncoderRetriever:
        @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
        def run(self, query: str) -> dict[str, list[Document]]:
            return {
                "documents": [Document(content=text, meta=meta, score=score) for text, meta, score in lookup(query)]
            }

    return CrossEncoderRetriever()


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
