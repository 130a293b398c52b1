"""What may be asked of a run: texts, one or several, and each with something in it. Pure."""

from __future__ import annotations

from soloist.errors import ConfigError
from soloist.text_lists import list_of_texts


def checked_query(value: object) -> str:
    """One question.

    Raises:
        ConfigError: it is no text, is empty, or has half a character in it.
    """
    if not isinstance(value, str):
        raise ConfigError(f"a query is a {type(value).__name__}: give a text")
    if not value.strip():
        raise ConfigError("a query is empty: ask something")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"the query {value[:40]!a} has a lone surrogate at character {exc.start}, which is not text: give it in "
            "UTF-8"
        ) from exc
    return str(value)


def checked_queries(values: object) -> tuple[str, ...]:
    """Several questions, in an order; there may be none.

    Raises:
        ConfigError: it is one text, whose letters would be asked, or one of them is no question.
    """
    return tuple(map(checked_query, list_of_texts("queries", values)))
