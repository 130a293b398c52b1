"""Faults of chunk files, as the readers of formats report them to `reading`. Not public: callers see `soloist.errors`.

A fault is the rest of a sentence whose subject is the file or the item, e.g. "is not UTF-8 at byte 17 (invalid start
byte)".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from soloist.types import SkipReason

_NAMES_SHOWN = 8
_NAME_CHARS = 60
_FOREIGN_CHARS = 300


class UnreadableFileError(Exception):
    """The rest of a file cannot be read; the message is the rest of a sentence about the file."""


class NotAChunkError(Exception):
    """An item was read but is not a chunk; the message is the rest of a sentence about the item."""

    reason: ClassVar[SkipReason] = "not a chunk"


class TextTooLongError(NotAChunkError):
    """The text of an item is too long for a chunk."""

    reason: ClassVar[SkipReason] = "text too long"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadItem:
    """Stands for an item that cannot be read, where the items after it can. `fault` is the rest of a sentence."""

    fault: str


def shortened(text: str, limit_chars: int = _NAME_CHARS) -> str:
    """The text, or its beginning and an ellipsis: an id can have a hundred megabytes, and a message must not."""
    return text if len(text) <= limit_chars else text[: limit_chars - 3] + "..."


def names_text(names: Iterable[str]) -> str:
    """The first few names in quotes, in ASCII: names from a file must not break the line or fill pages."""
    all_names = list(names)
    shown = ", ".join(ascii(shortened(name)) for name in all_names[:_NAMES_SHOWN])
    return shown if len(all_names) <= _NAMES_SHOWN else f"{shown} and {len(all_names) - _NAMES_SHOWN} more"


def foreign_text(exc: Exception) -> str:
    """Another library's message on one line, without control characters, and shortened."""
    joined = shortened(" ".join(str(exc).split()), _FOREIGN_CHARS)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in joined)


def require_unicode(text: str, name: str) -> None:
    """Refuse a text that UTF-8 cannot hold.

    Raises:
        NotAChunkError: the text has a lone surrogate.
    """
    if text.isascii():  # Python knows this without reading the characters
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise NotAChunkError(
            f"is not a chunk: its {name!r} has a lone surrogate at character {exc.start}, which UTF-8 cannot hold"
        ) from exc
