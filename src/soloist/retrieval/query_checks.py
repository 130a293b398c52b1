"""What may be a query, or another text to embed: one that is not empty; and what may be several. Pure."""

from __future__ import annotations

from typing import Literal

from soloist.errors import ConfigError
from soloist.text_lists import list_of_texts

Role = Literal["query", "document"]
_SEVERAL = {"query": "queries", "document": "documents"}


def checked_role(value: object) -> Role:
    """The role of texts.

    Raises:
        ConfigError: it is none.
    """
    if value == "query":
        return "query"
    if value == "document":
        return "document"
    raise ConfigError(f"role is {value!r}: give query or document")


def checked_query(value: object, noun: str = "query") -> str:
    """One query, or another text, which messages call by this noun.

    Raises:
        ConfigError: it is not a text, is empty, or has half a character in it.
    """
    if not isinstance(value, str):
        raise ConfigError(f"a {noun} is of the type {type(value).__name__}: give a text")
    if not value.strip():
        raise ConfigError(f"a {noun} is empty: give some text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"the {noun} {value[:40]!a} has a lone surrogate at character {exc.start}, which is not text: give it in "
            "UTF-8"
        ) from exc
    return str(value)


def checked_queries(values: object, role: Role = "query") -> tuple[str, ...]:
    """Several queries, or documents, in their order; there may be none.

    Raises:
        ConfigError: it is one text, whose letters would be queries, or one of them is not a query.
    """
    return tuple(checked_query(value, role) for value in list_of_texts(_SEVERAL[role], values))
