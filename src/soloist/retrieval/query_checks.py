"""What may be a query: a text that is not empty; and what may be several. Pure."""

from __future__ import annotations

from soloist.errors import ConfigError
from soloist.text_lists import list_of_texts


def checked_query(value: object) -> str:
    """One query.

    Raises:
        ConfigError: it is not a text, is empty, or has half a character in it.
    """
    if not isinstance(value, str):
        raise ConfigError(f"a query is of the type {type(value).__name__}: give a text")
    if not value.strip():
        raise ConfigError("a query is empty: give some text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"the query {value[:40]!a} has a lone surrogate at character {exc.start}, which is not text: give it in "
            "UTF-8"
        ) from exc
    return str(value)


def checked_queries(values: object) -> tuple[str, ...]:
    """Several queries, in their order; there may be none.

    Raises:
        ConfigError: it is one text, whose letters would be queries, or one of them is not a query.
    """
    return tuple(map(checked_query, list_of_texts("queries", values)))
