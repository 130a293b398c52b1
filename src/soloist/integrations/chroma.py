"""Chroma over soloist: an embedding function that tells a question from a chunk. Needs chromadb.

    import chromadb
    from soloist.integrations.chroma import SoloistEmbeddingFunction

    chunks = chromadb.Client().create_collection("chunks", embedding_function=SoloistEmbeddingFunction("questions"))

A collection keeps the folder, the name and the fingerprint of what made its vectors. Once this module is imported,
`get_collection` finds the function by itself. It refuses a folder whose vectors would be others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from soloist.broken_imports import importing_optional
from soloist.errors import ConfigError
from soloist.integrations.opening import QuestionsGiven, Vectors

with importing_optional("chromadb", what=__name__, package="chromadb", extra="chroma"):
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function


@register_embedding_function
class SoloistEmbeddingFunction(EmbeddingFunction[Documents]):
    """Vectors by one name of the questions; without a name the fused ones, or those of the only model."""

    def __init__(self, questions: QuestionsGiven, name: str | None = None) -> None:
        self._vectors = Vectors(questions, name)

    def __call__(self, input: Documents) -> Embeddings:
        """The unit vectors of chunks, with the document prompt of each model before the text."""
        return _as_arrays(self._vectors.of_chunks(input))

    def embed_query(self, input: Documents) -> Embeddings:
        """The unit vectors of questions, with the query prompt of each model before the text."""
        return _as_arrays(self._vectors.of_questions(input))

    @staticmethod
    def name() -> str:
        """The name by which Chroma knows the function."""
        return "soloist"

    def default_space(self) -> Space:
        """The distance of a collection that names none: for "cosine" Chroma would scale unit vectors once more."""
        return "ip"

    def get_config(self) -> dict[str, Any]:
        """What a collection keeps of the function."""
        made_by = self._vectors
        return {"questions": str(made_by.questions), "name": made_by.name, "fingerprint": made_by.fingerprint}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> SoloistEmbeddingFunction:
        """The function of a collection.

        Raises:
            OutputError: the folder has no questions any more.
            ConfigError: its vectors would be others than those of the collection.
        """
        built = SoloistEmbeddingFunction(config["questions"], config["name"])
        built.validate_config_update(config, built.get_config())
        return built

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Let the folder move, and nothing else change.

        Raises:
            ConfigError: the vectors would be others.
        """
        if old_config["fingerprint"] != new_config["fingerprint"]:
            raise ConfigError(
                f"{new_config['questions']} makes other vectors of {new_config['name']} than the collection has: give "
                "the questions of the run whose vectors they are, or make the collection again"
            )


def _as_arrays(vectors: list[list[float]]) -> Embeddings:
    return [np.array(vector, np.float32) for vector in vectors]
