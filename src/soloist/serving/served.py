"""What a server answers with: the questions of a run, and the run itself where the folder is one. Knows no HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from soloist.arrays import Vectors
from soloist.fusion_methods import FUSED
from soloist.retrieval.opened import OpenedRun, open_run
from soloist.retrieval.opened_questions import open_questions
from soloist.retrieval.questions import Questions
from soloist.serving.asked import Role, SearchAsked
from soloist.serving.refusals import RefusedError
from soloist.stores.questions_file import is_questions_folder, require_questions_or_run

FIRST_QUESTION = "Which question is answered first?"
_POSTED = {"sparse": "encode_sparse", "lexical": "encode_words"}


@dataclass(frozen=True, slots=True)
class VectorsOf:
    """Vectors by a member or fused, in a role."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class HitsOf:
    """A search of the run."""

    k: int | None
    by: str | None
    collections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Readiness:
    """A first question to every member, which loads its model."""


class Embedded(NamedTuple):
    """A text's vector (dim,) float32, and the tokens of the text that the models have read, and have cut off."""

    vector: Vectors
    read: int
    cut: int


class Served:
    """The models of a folder. `run` is None where the folder has only what questions need."""

    def __init__(self, questions: Questions, run: OpenedRun | None) -> None:
        self.questions = questions
        self.run = run

    @classmethod
    def open(cls, directory: Path, catalogue: Path | None = None) -> Served:
        """Open a run, or a folder of `soloist export --to questions`. No model is loaded yet.

        Raises:
            SoloistError: as `open_run` and `open_questions`.
        """
        require_questions_or_run(directory)
        if is_questions_folder(directory):
            return cls(open_questions(directory, catalogue=catalogue), None)
        run = open_run(directory, catalogue=catalogue)
        return cls(run.questions, run)

    @property
    def fingerprint(self) -> str:
        """That of the fused vectors, or of the only member; of several members without fused vectors, a digest."""
        fingerprints = self.questions.fingerprints
        if FUSED in fingerprints:
            return fingerprints[FUSED]
        if len(fingerprints) == 1:
            return next(iter(fingerprints.values()))
        told = "\n".join(f"{name} {fingerprint}" for name, fingerprint in fingerprints.items())
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """The members in the run's order, then `fused` where the run has it."""
        return self.questions.names

    def model_values(self, name: str) -> dict[str, Any]:
        """What is said of a member or of the fused vectors, JSON-ready.

        Raises:
            RefusedError: there is no such member.
        """
        self._require(name)
        return {
            "id": name, "object": "model", "created": 0, "owned_by": "soloist", "kind": self.questions.kinds[name],
            "dimensions": self.questions.dims.get(name), "fingerprint": self.questions.fingerprints[name],
        }  # fmt: skip

    def require_dense(self, name: str, dimensions: int | None) -> None:
        """Return where the vectors of a name have these dimensions, or where the client does not say.

        Raises:
            RefusedError: there is no such member; it has no vector of fixed length; or the dimensions are others.
        """
        self._require(name)
        kinds, dims = self.questions.kinds, self.questions.dims
        if name not in dims:
            raise RefusedError(
                400,
                f"{name} gives no vector of fixed length: choose one of {', '.join(dims)}, or ask in Python with "
                f"soloist.open_questions(...).{_POSTED[kinds[name]]}",
                param="model",
            )
        if dimensions not in (None, dims[name]):
            raise RefusedError(
                400,
                f"{name} has {dims[name]} dimensions, as the vectors that it is compared with: leave dimensions out",
                param="dimensions",
            )

    def _require(self, name: str) -> None:
        if name not in self.questions.kinds:
            raise RefusedError(
                404,
                f"there is no model of this name here: choose one of {', '.join(self.names)}",
                param="model",
                code="model_not_found",
            )

    def hits_of(self, asked: SearchAsked) -> HitsOf:
        """What to compute for a search.

        Raises:
            RefusedError: the folder has no chunks.
        """
        if self.run is None:
            raise RefusedError(
                404,
                "this server has the questions of a run, and no chunks: start it with the folder of the run, or "
                "ask the store that has the vectors",
            )
        return HitsOf(asked.k, asked.by, asked.collections)

    def compute(self, key: VectorsOf | HitsOf | Readiness, texts: Sequence[str]) -> Sequence[Any]:
        """For each text an `Embedded`, the hits of a search, or the names of the members that have answered it.

        Raises:
            SoloistError: as `Questions.encode` and `OpenedRun.search`; a model cannot be loaded, or is not the run's.
        """
        if isinstance(key, Readiness):
            return [self._asked_of_all(text) for text in texts]
        if isinstance(key, VectorsOf):
            vectors = self.questions.encode(texts, key.name, key.role)
            counts = self.questions.token_counts(texts, key.name, key.role)
            return [Embedded(vector, *count) for vector, count in zip(vectors, counts, strict=True)]
        assert self.run is not None
        return [self.run.search(text, key.k, by=key.by, collections=key.collections) for text in texts]

    def _asked_of_all(self, text: str) -> list[str]:
        for name, kind in self.questions.kinds.items():
            if kind == "dense":
                self.questions.encode([text], name)
            elif kind == "sparse":
                self.questions.encode_sparse([text], name)
            else:
                self.questions.encode_words([text], name)
        return list(self.questions.kinds)
