"""Where each chunk of a run was read, in a few bytes for each stretch of chunks that lay one behind the other. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

from soloist.types import Place


class ReadPlaces:
    """The places of the chunks of each collection, in the order in which they were read.

    Example:
        >>> places = ReadPlaces()
        >>> places.note("docs", Place(file=Path("a.jsonl"), index=4))
        >>> str(places.of("docs", 0))
        'a.jsonl (chunk 4)'
    """

    def __init__(self) -> None:
        self._stretches: dict[str, _Stretches] = {}

    def note(self, collection: str, place: Place) -> None:
        """Take note of the next chunk of a collection."""
        self._stretches.setdefault(collection, _Stretches()).add(place)

    def of(self, collection: str, number: int) -> Place:
        """Where chunk `number` of a collection was read, counted from 0.

        Raises:
            KeyError: nothing was read of the collection.
        """
        return self._stretches[collection].place(number)


@dataclass(slots=True)
class _Stretches:
    """Chunks with indices one behind the other in one file, each stretch by its first chunk."""

    count: int = 0
    files: list[Path] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("q"))
    file_numbers: array[int] = field(default_factory=lambda: array("i"))
    indices: array[int] = field(default_factory=lambda: array("q"))

    def add(self, place: Place) -> None:
        is_new_file = not self.files or self.files[-1] != place.file
        if is_new_file or place.index != self.indices[-1] + self.count - self.numbers[-1]:
            if is_new_file:
                self.files.append(place.file)
            self.numbers.append(self.count)
            self.file_numbers.append(len(self.files) - 1)
            self.indices.append(place.index)
        self.count += 1

    def place(self, number: int) -> Place:
        at = bisect_right(self.numbers, number) - 1
        return Place(file=self.files[self.file_numbers[at]], index=self.indices[at] + number - self.numbers[at])
