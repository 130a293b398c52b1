"""Whether an earlier chunk has the same id, and where that chunk is. Knows ids and places, not files.

An id is kept as a digest, and its place as two numbers. Together they take 28 to 44 bytes an id.
"""

from __future__ import annotations

from array import array
from pathlib import Path

from soloist.digests import DigestTable, text_digest
from soloist.errors import DuplicateIdError
from soloist.sources.faults import shortened
from soloist.types import Place


class DuplicateIds:
    """Raises at the second chunk with the same id. A collection has an object of its own.

    Example:
        >>> duplicates = DuplicateIds()
        >>> duplicates.check("a-1", Place(file=Path("a_chunks.json"), index=0))
    """

    def __init__(self) -> None:
        self._ids = DigestTable()
        self._files: list[Path] = []
        self._file_numbers = array("i")
        self._indices = array("i")

    def check(self, id: str, place: Place) -> None:
        """Remember the id of the chunk at `place`.

        Raises:
            DuplicateIdError: an earlier chunk has this id; the message names both places.
        """
        entry = self._ids.add(text_digest(id))
        if entry is not None:
            raise DuplicateIdError(
                f"two chunks have the same id {shortened(id)!r}, {self._place(entry)} and {place}: "
                "give each chunk its own id, or name the field with the ids in --id-field"
            )
        if not self._files or (self._files[-1] is not place.file and self._files[-1] != place.file):
            self._files.append(place.file)
        self._file_numbers.append(len(self._files) - 1)
        self._indices.append(place.index)

    def _place(self, entry: int) -> Place:
        return Place(file=self._files[self._file_numbers[entry]], index=self._indices[entry])
