"""Rules for tables of chunks in every format: their columns, and metadata that is JSON text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from soloist.sources.faults import BadItem, UnreadableFileError, names_text
from soloist.sources.nesting import TooDeepError, decode

METADATA_COLUMN = "metadata"


def require_distinct(names: Sequence[str]) -> None:
    """Refuse a table with two columns of the same name: a row as a dict would lose one of them.

    Raises:
        UnreadableFileError: two columns have the same name.
    """
    repeated = [name for name, columns in Counter(names).items() if columns > 1]
    if repeated:
        raise UnreadableFileError(
            f"has several columns with the same name ({names_text(repeated)}), and only one of them could be kept"
        )


def require_text_column(names: Sequence[str], text_field: str) -> None:
    """Refuse a table that does not have exactly one text column.

    Raises:
        UnreadableFileError: it has no column of that name, or several.
    """
    count = names.count(text_field)
    if count != 1:
        fault = f"has {count} columns {text_field!r}" if count else no_text_column(names, text_field)
        raise UnreadableFileError(f"{fault} (give --text-field to name another column)")


def no_text_column(names: Sequence[str], text_field: str) -> str:
    """The fault of a table without its text column, as the rest of a sentence."""
    return f"has no column {text_field!r}{f', only {names_text(names)}' if names else ''}"


def with_parsed_metadata(item: dict[str, Any]) -> Any:
    """The row, with metadata that is JSON text parsed. A `BadItem` if the metadata is nested too deeply."""
    if isinstance(item.get(METADATA_COLUMN), str):
        try:
            item[METADATA_COLUMN] = _parsed_object(item[METADATA_COLUMN])
        except TooDeepError:
            return BadItem(fault="cannot be stored: its metadata is nested too deeply")
    return item


def _parsed_object(text: str) -> Any:
    """The text parsed where it is a JSON object, else the text. An object that is nested too deeply is an error."""
    try:
        value = decode(text)
    except TooDeepError:
        if text.lstrip().startswith("{"):
            raise
        return text
    except ValueError:
        return text
    return value if isinstance(value, dict) else text
