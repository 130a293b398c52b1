"""Haystack over soloist: a text embedder for questions, and a document embedder for chunks. Needs haystack-ai.

    from soloist.integrations.haystack import SoloistDocumentEmbedder, SoloistTextEmbedder

    SoloistTextEmbedder("questions").run("how is a device given back?")["embedding"]

To load a saved pipeline, give `Pipeline.load` the `allowed_modules=["soloist.integrations.haystack"]`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from soloist.broken_imports import importing_optional
from soloist.errors import ConfigError
from soloist.integrations.opening import QuestionsGiven, Vectors

with importing_optional("haystack", what=__name__, package="haystack-ai", extra="haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict


@component
class SoloistTextEmbedder:
    """A question's vector by one name; without a name the fused one, or that of the only model."""

    def __init__(self, questions: QuestionsGiven, name: str | None = None) -> None:
        self._vectors = Vectors(questions, name)
        self._name = name

    def warm_up(self) -> None:
        """Open the folder, so that an error of it comes before the first question. Models load with that question.

        Raises:
            OutputError: the folder has no questions, or is damaged.
            ConfigError: it has no such dense vectors.
        """
        _meta(self._vectors)

    def to_dict(self) -> dict[str, Any]:
        """What a saved pipeline keeps: the path of the folder, and the name."""
        return default_to_dict(self, questions=str(self._vectors.questions), name=self._name)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SoloistTextEmbedder:
        """The component of a saved pipeline, which opens its folder when it is first needed."""
        return default_from_dict(cls, data)

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """The unit vector as `embedding`; `meta` has the `model` and the `fingerprint` of what made it."""
        return {"embedding": self._vectors.of_questions([text])[0], "meta": _meta(self._vectors)}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """As `run`, in another thread."""
        return await asyncio.to_thread(self.run, text)


@component
class SoloistDocumentEmbedder:
    """Documents with the vectors of their content by one name; as `SoloistTextEmbedder`."""

    def __init__(self, questions: QuestionsGiven, name: str | None = None) -> None:
        self._vectors = Vectors(questions, name)
        self._name = name

    def warm_up(self) -> None:
        """As that of `SoloistTextEmbedder`."""
        _meta(self._vectors)

    def to_dict(self) -> dict[str, Any]:
        """What a saved pipeline keeps: the path of the folder, and the name."""
        return default_to_dict(self, questions=str(self._vectors.questions), name=self._name)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SoloistDocumentEmbedder:
        """The component of a saved pipeline, which opens its folder when it is first needed."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Copies of the documents, with the `embedding` of each; `meta` as that of `SoloistTextEmbedder.run`.

        Raises:
            ConfigError: a document has no text.
        """
        texts = []
        for document in documents:
            if document.content is None:
                raise ConfigError(f"the document {document.id} has no text to embed: give it a content")
            texts.append(document.content)
        embeddings = self._vectors.of_chunks(texts)
        embedded = [replace(document, embedding=found) for document, found in zip(documents, embeddings, strict=True)]
        return {"documents": embedded, "meta": _meta(self._vectors)}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`, in another thread."""
        return await asyncio.to_thread(self.run, documents)


def _meta(vectors: Vectors) -> dict[str, str]:
    return {"model": vectors.name, "fingerprint": vectors.fingerprint}
