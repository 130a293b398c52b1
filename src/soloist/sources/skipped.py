"""The items that were left out, as an error lists them: a count, and the first few by name. Pure."""

from __future__ import annotations

from soloist.types import SkippedInput

_NAMED = 3


class SkippedInputs:
    """Counts the items that were left out and keeps the first few, in memory that does not grow.

    As text, e.g. `notes/a.json (chunk 0): empty text; notes/b.json: no chunks`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: list[SkippedInput] = []

    def add(self, item: SkippedInput) -> None:
        """Add an item."""
        self.count += 1
        if len(self._first) < _NAMED:
            self._first.append(item)

    def __str__(self) -> str:
        named = "; ".join(map(str, self._first))
        return named if self.count <= _NAMED else f"{named}; and {self.count - _NAMED:,} more"
