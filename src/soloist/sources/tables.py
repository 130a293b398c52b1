"""Rules for tables of chunks in every format: their columns, and metadata that are text of
JSON. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from soloist.sources.faults import BadItem, UnreadableFileError, names_text
from soloist.sources.nesting import TooDeepError, decode

METADATA_COLUMN = "metadata"


def require_distinct(names: Sequence[str]) -> None:
    """Refuse a table with two columns of one name: a row as a dict would lose one.

    Raises:
        UnreadableFileError: two columns have one name.
    """
    repeated = [name for name, columns in Counter(names).items() if columns > 1]
    if repeated:
        raise UnreadableFileError(
            f"has several columns of one name ({names_text(repeated)}), of which all but one would be lost"
        )


def require_text_column(names: Sequence[str], text_field: str) -> None:
    """Refuse a table without the one column of texts.

    Raises:
        UnreadableFileError: it has none of that name, or several.
    """
    count = names.count(text_field)
    if count != 1:
        raise UnreadableFileError(no_text_column(names, text_field, "no column" if not count else f"{count} columns"))


def no_text_column(names: Sequence[str], text_field: str, found: str = "no column") -> str:
    """That a table lacks its column of texts, as the rest of a sentence."""
    columns = names_text(names) or "none"
    return f"has {found} {text_field!r} (its columns are {columns}: --text-field names another)"


def with_parsed_metadata(item: dict[str, Any]) -> Any:
    """The row, with metadata that were JSON text as an object. A `BadItem` if they are nested too deeply."""
    if isinstance(item.get(METADATA_COLUMN), str):
        try:
            item[METADATA_COLUMN] = _parsed_object(item[METADATA_COLUMN])
        except TooDeepError:
            return BadItem(fault="cannot be kept: its metadata are nested too deeply")
    return item


def _parsed_object(text: str) -> Any:
    """The object that the text is in JSON; the text itself where it is none. One that nests too deeply is an error."""
    try:
        value = decode(text)
    except TooDeepError:
        if text.lstrip().startswith("{"):
            raise
        return text
    except ValueError:
        return text
    return value if isinstance(value, dict) else text
