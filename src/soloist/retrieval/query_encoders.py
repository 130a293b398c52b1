"""Texts to vectors, by the very models that made a run. Knows which model is asked; nothing of where vectors lie.

Light to import: torch comes with the first model that is asked (`query_sides`), and a run of words has none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from soloist.arrays import Vectors
from soloist.broken_imports import importing_libraries, uncollected
from soloist.models.spec import ModelSpec
from soloist.ragged import Keys, RaggedRows
from soloist.retrieval.query_checks import Role
from soloist.retrieval.run_record import ModelRecord
from soloist.workers import interruptible

if TYPE_CHECKING:
    from soloist.models.loading import StagedModel
    from soloist.retrieval.query_sides import MemberRows, Side

_MOST_NOTICES = 100  # those of a process that answers for weeks


class TokenCount(NamedTuple):
    """The tokens of a text that a model reads, with those of its prompt, and those that it cuts off."""

    read: int
    cut: int


class QueryEncoders:
    """The models of a run for questions and for documents, on the CPU. A model is loaded when it is first needed.

    Any number of threads may share them. `find` gives the spec of a model where it is on this machine.
    """

    def __init__(self, models: Mapping[str, ModelRecord], find: Callable[[ModelRecord], ModelSpec]) -> None:
        self._models = models
        self._find = find
        self._loading = {model: threading.Lock() for model in models}
        self._staged: dict[str, StagedModel] = {}
        self._sides: dict[tuple[str, Role], Side] = {}
        self._last: dict[tuple[str, Role], tuple[tuple[str, ...], MemberRows]] = {}
        self._notices: dict[str, None] = {}
        self._noticing = threading.Lock()

    @property
    def notices(self) -> tuple[str, ...]:
        """Which texts were cut, a sentence for each of the last hundred."""
        with self._noticing:
            return tuple(self._notices)

    def encode(self, model: str, texts: Sequence[str], role: Role = "query") -> Vectors:
        """The texts as this dense model sees them, the prompt of the role before each: (texts, dim) unit float32,
        read-only.

        The last call's vectors are kept, because the rankers of an evaluation encode the same questions.

        Raises:
            ConfigError: the model of that name here is not the one that made the run.
            ModelLoadError: it cannot be loaded.
            EncodingError: a text has no vector, e.g. because the model knows none of its words.
        """
        vectors = self._rows(model, tuple(texts), role)
        assert isinstance(vectors, np.ndarray)
        return vectors

    def sparse(self, model: str, texts: Sequence[str], role: Role = "query") -> RaggedRows:
        """The texts as this sparse model sees them, a row each. A text without a weight has an empty row, which finds
        nothing. A row has length 1 if the model is compared by the cosine. As `encode` otherwise.
        """
        rows = self._rows(model, tuple(texts), role)
        assert isinstance(rows, RaggedRows)
        return rows.of_length_one() if self._staged[model].similarity == "cosine" else rows

    def token_counts(self, model: str, texts: Sequence[str], role: Role = "query") -> list[TokenCount]:
        """How much of each text this model reads. The errors are those of `encode`."""
        tokenized = self._side(model, role).tokenized(texts)
        return list(map(TokenCount, tokenized.lengths, tokenized.dropped))

    def vocabulary_words(self, model: str, keys: Keys) -> list[str]:
        """The words of a sparse model's vocabulary by their numbers. The model has encoded a question before."""
        words: list[str] = self._staged[model].module.tokenizer.convert_ids_to_tokens(keys.tolist())
        return words

    def _rows(self, model: str, asked: tuple[str, ...], role: Role) -> MemberRows:
        last, rows = self._last.get((model, role), (None, None))
        if rows is None or last != asked:
            side = self._side(model, role)
            rows = side.encoded(asked, self._notice)
            if isinstance(rows, np.ndarray):
                rows.flags.writeable = False
            self._last[model, role] = asked, rows  # one value: another thread sees texts and rows that belong together
        return rows

    def _notice(self, notice: str) -> None:
        with self._noticing:
            self._notices[notice] = None
            if len(self._notices) > _MOST_NOTICES:
                del self._notices[next(iter(self._notices))]

    def _side(self, model: str, role: Role) -> Side:
        with self._loading[model]:
            if (model, role) not in self._sides:
                with uncollected():  # the load imports libraries too, some of them one by one
                    self._sides[model, role] = self._loaded(model, role)
            return self._sides[model, role]

    def _loaded(self, model: str, role: Role) -> Side:
        sides = interruptible(_imported)  # a library that is interrupted in its import may raise anything, or abort
        if model not in self._staged:
            self._staged[model] = sides.loaded(self._models[model], self._find)
        side: Side = sides.Side(self._staged[model], role)
        return side


def _imported() -> ModuleType:
    with importing_libraries():
        from soloist.retrieval import query_sides

    return query_sides
