"""Whether an earlier chunk has the same id, and where that chunk is. Knows ids and places, not files.

An id is kept as a digest, and its place as two numbers. Together they take 28 to 44 bytes an id.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from types import TracebackType

from soloist.digests import DigestTable, text_digest
from soloist.errors import DuplicateIdError, InputError
from soloist.sources.faults import shortened
from soloist.types import Place


class DuplicateIds:
    """Raises at the second chunk with the same id. A collection has an object of its own.

    Ids may also be added and then checked together, which takes a third of the time. A context manager: it checks the
    added ids at its end, also where a fault of the input ends it. So the first of two faults is told.

    Example:
        >>> duplicates = DuplicateIds()
        >>> duplicates.check("a-1", Place(file=Path("a_chunks.json"), index=0))
        >>> with duplicates:
        ...     duplicates.add("a-2", Place(file=Path("a_chunks.json"), index=1))
        ...     digests = duplicates.check_added()
    """

    def __init__(self) -> None:
        self._ids = DigestTable()
        self._files: list[Path] = []
        self._file_numbers = array("i")
        self._indices = array("i")
        self._added: list[tuple[str, Place]] = []

    def __enter__(self) -> DuplicateIds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, InputError):
            self.check_added()

    def check(self, id: str, place: Place) -> None:
        """Remember the id of the chunk at `place`.

        Raises:
            DuplicateIdError: an earlier chunk has this id; the message names both places.
        """
        self._require_new(id, place, self._ids.add(text_digest(id)))
        self._keep(place)

    def add(self, id: str, place: Place) -> None:
        """Remember the id of the chunk at `place` for the next check."""
        self._added.append((id, place))

    def check_added(self) -> list[bytes]:
        """Check the ids that were added since the last check, and give their digests. Raises as `check` does."""
        added, self._added = self._added, []
        digests = [text_digest(id_) for id_, _ in added]
        entries = self._ids.add_all(digests)
        for (id_, place), entry in zip(added, entries.tolist(), strict=True):
            self._require_new(id_, place, entry if entry >= 0 else None)
            self._keep(place)
        return digests

    def _require_new(self, id: str, place: Place, entry: int | None) -> None:
        if entry is not None:
            raise DuplicateIdError(
                f"two chunks have the same id {shortened(id)!r}, {self._place(entry)} and {place}: "
                "give each chunk its own id, or name the field with the ids in --id-field"
            )

    def _keep(self, place: Place) -> None:
        if not self._files or (self._files[-1] is not place.file and self._files[-1] != place.file):
            self._files.append(place.file)
        self._file_numbers.append(len(self._files) - 1)
        self._indices.append(place.index)

    def _place(self, entry: int) -> Place:
        return Place(file=self._files[self._file_numbers[entry]], index=self._indices[entry])
