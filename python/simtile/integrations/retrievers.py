"""Indexes in the retriever's slot of LangChain, LlamaIndex and Haystack.

    lookup = VectorLookup(index, texts, embed=model.encode)                    an ExactIndex or a GraphIndex
    lookup = simtile.cur.slots.Lookup(cross_encoder_index, budget=100)         an expensive scorer
    retriever = langchain_retriever(lookup)                                    or llama_index_, haystack_retriever

A lookup is any function from a query to (text, metadata, score) of its hits, best first: all that the frameworks ask
for. A framework is imported by the function that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simtile.cur.results import document
from simtile.search._arrays import as_count

if TYPE_CHECKING:
    from simtile.search import ExactIndex, GraphIndex

__all__ = ["VectorLookup", "haystack_retriever", "langchain_retriever", "llama_index_retriever"]

Hits = list[tuple[str, dict[str, Any], float]]
"""(text, metadata, score), best first."""


class VectorLookup:
    """What an index of embeddings finds for one query.

    Parameters
    ----------
    index : ExactIndex or GraphIndex
    items : sequence      the item of each id: a text, or a mapping with a "text"; the rest of it is metadata
    embed : callable      a list of texts to embeddings (M, D), such as ``SentenceTransformer.encode``
    k : int
    options      for the index's ``search``, such as ``filter`` or ``ef``

    Raises
    ------
    ValueError      fewer items than ids that the index has given
    """

    def __init__(
        self, index: ExactIndex | GraphIndex, items: Sequence[Any], embed: Callable[[list[str]], Any], *, k: int = 10,
        **options: Any,
    ) -> None:  # fmt: skip
        if len(items) < index.next_id:
            raise ValueError(f"items: one for each of {index.next_id} ids, got {len(items)}")
        self._index, self._items, self._embed = index, items, embed
        self._k, self._options = as_count("k", k), options

    def __call__(self, query: str) -> Hits:
        """Metadata holds ``corpus_id``, ``score`` and the item's other fields."""
        embedding = np.asarray(self._embed([query]))
        scores, ids = self._index.search(embedding, self._k, **self._options)
        return [
            document(self._items[id], id, score)
            for id, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True)
            if id >= 0
        ]


def langchain_retriever(lookup: Callable[[str], Hits]) -> Any:
    """A ``BaseRetriever`` of LangChain."""
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class SimtileRetriever(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(page_content=text, metadata=metadata) for text, metadata, _ in lookup(query)]

    return SimtileRetriever()


def llama_index_retriever(lookup: Callable[[str], Hits]) -> Any:
    """A ``BaseRetriever`` of LlamaIndex."""
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    class SimtileRetriever(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return [
                NodeWithScore(node=TextNode(text=text, metadata=metadata), score=score)
                for text, metadata, score in lookup(query_bundle.query_str)
            ]

    return SimtileRetriever()


def haystack_retriever(lookup: Callable[[str], Hits]) -> Any:
    """A component of Haystack 2 with input ``query`` and output ``documents``."""
    from haystack import Document, component

    @component
    class SimtileRetriever:
        @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
        def run(self, query: str) -> dict[str, list[Document]]:
            return {
                "documents": [Document(content=text, meta=meta, score=score) for text, meta, score in lookup(query)]
            }

    return SimtileRetriever()
