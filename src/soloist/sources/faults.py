"""What can be wrong with a chunk file, as its readers tell it to `reading`. Not public: callers see `soloist.errors`.

A fault says what is wrong as the rest of a sentence whose subject is the file or the item, e.g. "is not
UTF-8 at byte 17 (invalid start byte)".
"""

from __future__ import annotations

from dataclasses import dataclass


class UnreadableFileError(Exception):
    """The rest of a file cannot be read; the message is the rest of a sentence about the file."""


class NotAChunkError(Exception):
    """An item was read but is no chunk; the message is the rest of a sentence about the item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadItem:
    """Stands in for an item that cannot be read where those after it can. `fault` is the rest of a sentence."""

    fault: str
