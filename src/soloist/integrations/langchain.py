"""LangChain over soloist: embeddings of questions and of chunks, and a retriever over a run. Needs langchain-core.

from soloist.integrations.langchain import SoloistEmbeddings, SoloistRetriever

SoloistEmbeddings("questions").embed_query("how is a device given back?")
SoloistRetriever(run="run", k=5).invoke("how is a device given back?")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from soloist.broken_imports import importing_optional
from soloist.integrations.opening import ByGiven, QuestionsGiven, RunGiven, Vectors, id_of, place_of, run_of, search

with importing_optional("langchain_core", what=__name__, package="langchain-core", extra="langchain"):
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from pydantic import PlainValidator


class SoloistEmbeddings(Embeddings):
    """Vectors by one name of the questions; without a name the fused ones, or those of the only model.

    Raises:
        OutputError: the folder has no questions, or is damaged.
        ConfigError: it has no such dense vectors.
    """

    def __init__(self, questions: QuestionsGiven, name: str | None = None) -> None:
        self._vectors = Vectors(questions, name)

    @property
    def name(self) -> str:
        """Whose vectors these are."""
        return self._vectors.name

    def embed_query(self, text: str) -> list[float]:
        """A question's unit vector, with the query prompt of each model before the text."""
        return self._vectors.of_questions([text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The unit vectors of chunks, with the document prompt of each model before the text."""
        return self._vectors.of_chunks(texts)


class SoloistRetriever(BaseRetriever):
    """The chunks of a run as `OpenedRun.search` ranks them: `k` of them, by default 10, or all if there are fewer.

    A document has the chunk's metadata, and its place and score under `soloist_collection`, `soloist_id`,
    `soloist_score` and so on. Its id is the one that the chunk has in every store that soloist exports to.
    """

    run: Annotated[RunGiven, PlainValidator(run_of)]
    k: int | None = None
    by: ByGiven = None
    collections: Sequence[str] = ()

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        hits = search(run_of(self.run), query, self.k, self.by, self.collections)
        return [
            Document(id=id_of(hit), page_content=hit.text, metadata={**hit.metadata, **place_of(hit)}) for hit in hits
        ]
