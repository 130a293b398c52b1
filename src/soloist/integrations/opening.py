"""What an adapter asks: the questions or the run of a folder, opened once. Knows no framework."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from soloist.errors import ConfigError
from soloist.exports.rows import key_of
from soloist.fusion_methods import FUSED
from soloist.retrieval.hits import Hits
from soloist.retrieval.opened import OpenedRun, open_run
from soloist.retrieval.opened_questions import open_questions
from soloist.retrieval.questions import Questions
from soloist.retrieval.rankers.choice import By
from soloist.types import Hit

Opened = TypeVar("Opened")
# A run is searched by one thread at a time, whichever adapters have it. The models of its questions take any number.
_SEARCHED: WeakKeyDictionary[OpenedRun, threading.Lock] = WeakKeyDictionary()


class Opening(Generic[Opened]):
    """A folder that is opened when it is first needed. Copies share what is open, and a pickle has the path alone."""

    def __init__(self, open_it: Callable[[Path], Opened], path: Path, opened: Opened | None = None) -> None:
        self.path = path
        self._open_it = open_it
        self._opened = opened
        self._lock = threading.Lock()

    def __call__(self) -> Opened:
        """The folder, opened.

        Raises:
            OutputError: it is not there, or is damaged.
        """
        with self._lock:
            if self._opened is None:
                self._opened = self._open_it(self.path)
            return self._opened

    def __deepcopy__(self, memo: dict[int, Any]) -> Opening[Opened]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Opening, (self._open_it, self.path)

    def __str__(self) -> str:
        return str(self.path)


if TYPE_CHECKING:
    QuestionsGiven = str | Path | Questions | OpenedRun | Opening[Questions]
    RunGiven = str | Path | OpenedRun | Opening[OpenedRun]
    ByGiven = By | str | None
else:  # pydantic would look into these classes
    QuestionsGiven = RunGiven = ByGiven = Any


def questions_of(given: QuestionsGiven) -> Opening[Questions]:
    """The questions of a folder, or of what is open. The path is made absolute, for an application that moves."""
    if isinstance(given, Opening):
        return given
    opened = given.questions if isinstance(given, OpenedRun) else given
    if isinstance(opened, Questions):
        return Opening(open_questions, opened.path.absolute(), opened)
    return Opening(open_questions, Path(opened).absolute())


def run_of(given: RunGiven) -> Opening[OpenedRun]:
    """The run of a folder, or of what is open; as `questions_of`."""
    if isinstance(given, Opening):
        return given
    if isinstance(given, OpenedRun):
        return Opening(open_run, given.path.absolute(), given)
    return Opening(open_run, Path(given).absolute())


class Vectors:
    """Vectors by one name, as frameworks take them: lists of Python's floats, each with the value of a float32."""

    def __init__(self, questions: QuestionsGiven, name: str | None) -> None:
        self.questions = questions_of(questions)
        self._name = name

    @property
    def name(self) -> str:
        """Whose vectors they are: those of the name that was given, else the fused ones, else those of the only model.

        Raises:
            OutputError: the folder has no questions, or is damaged.
            ConfigError: the questions have no such dense vectors, or several and none was named.
        """
        dense = tuple(self.questions().dims)
        name = self._name or (FUSED if FUSED in dense else dense[0] if len(dense) == 1 else None)
        if name not in dense:
            has = f"no dense vectors of {name}" if name else "vectors of several models, and no fused ones"
            choices = ", ".join(dense) or "another run"
            raise ConfigError(f"{self.questions} has {has}: choose one of {choices}")
        return name

    @property
    def fingerprint(self) -> str:
        """A digest of what makes them. Vectors with another fingerprint cannot be compared with these."""
        return self.questions().fingerprints[self.name]

    def of_questions(self, texts: Sequence[str]) -> list[list[float]]:
        """Unit vectors of questions; the errors are those of `Questions.encode`."""
        found: list[list[float]] = self.questions().encode(texts, self.name, role="query").tolist()
        return found

    def of_chunks(self, texts: Sequence[str]) -> list[list[float]]:
        """Unit vectors of chunks, which are those of a run that has them."""
        found: list[list[float]] = self.questions().encode(texts, self.name, role="document").tolist()
        return found


def search(run: Opening[OpenedRun], question: str, k: int | None, by: By | str | None, among: Sequence[str]) -> Hits:
    """The hits of a question, for one thread at a time; the errors are those of `OpenedRun.search`."""
    opened = run()
    with _SEARCHED.setdefault(opened, threading.Lock()):
        return opened.search(question, k, by=by, collections=among)


def place_of(hit: Hit) -> Mapping[str, Any]:
    """Where a hit comes from and how good it is, under names that a chunk's own metadata hardly have."""
    place = {
        "collection": hit.collection, "id": hit.id, "rank": hit.rank, "score": hit.score,
        "source_file": hit.source_file, "source_index": hit.source_index,
    }  # fmt: skip
    return {f"soloist_{name}": value for name, value in place.items() if value is not None}


def id_of(hit: Hit) -> str:
    """The id of a hit in a framework: the UUID that its chunk has in every store that soloist exports to."""
    return key_of(hit.collection, hit.id)
