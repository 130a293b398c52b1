"""LlamaIndex over soloist: an embedding model, and a retriever over a run. Needs llama-index-core.

from soloist.integrations.llama_index import SoloistEmbedding, SoloistRetriever

SoloistEmbedding(questions="questions").get_query_embedding("how is a device given back?")
SoloistRetriever("run", k=5).retrieve("how is a device given back?")
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from soloist.broken_imports import importing_optional
from soloist.integrations.opening import (
    ByGiven,
    QuestionsGiven,
    RunGiven,
    Vectors,
    id_of,
    place_of,
    questions_of,
    run_of,
    search,
)
from soloist.types import Hit

with importing_optional("llama_index.core", what=__name__, package="llama-index-core", extra="llama-index"):
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from pydantic import PlainSerializer, PlainValidator, PrivateAttr


class SoloistEmbedding(BaseEmbedding):
    """Vectors by one name of the questions: `model_name`, else the fused ones, or those of the only model.

    Raises:
        OutputError: the folder has no questions, or is damaged.
        ConfigError: it has no such dense vectors.
    """

    questions: Annotated[QuestionsGiven, PlainValidator(questions_of), PlainSerializer(str)]
    _vectors: Vectors = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Open the folder, and settle whose vectors these are."""
        given = self.model_name if "model_name" in self.model_fields_set else None
        self._vectors = Vectors(self.questions, given)
        self.model_name = self._vectors.name

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows the class."""
        return cls.__name__

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vectors.of_questions([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vectors.of_chunks([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors.of_chunks(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class SoloistRetriever(BaseRetriever):
    """The chunks of a run as `OpenedRun.search` ranks them: `k` of them, by default 10, or all if there are fewer.

    A node has the chunk's metadata, and its place and score under `soloist_collection`, `soloist_id` and so on, which
    a language model is not shown. Its id is the one that the chunk has in every store that soloist exports to.
    """

    def __init__(
        self,
        run: RunGiven,
        k: int | None = None,
        by: ByGiven = None,
        collections: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.run = run_of(run)
        self.k, self.by, self.collections = k, by, collections

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = search(self.run, query_bundle.query_str, self.k, self.by, self.collections)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(hit: Hit) -> TextNode:
    place = place_of(hit)
    return TextNode(
        id_=id_of(hit), text=hit.text, metadata={**hit.metadata, **place},
        excluded_llm_metadata_keys=[*place], excluded_embed_metadata_keys=[*place],
    )  # fmt: skip
