"""Queries on one table of PostgreSQL, whose names are quoted by psycopg. Knows no columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class Queries:
    """What is asked over one connection; `{table}` in a query is the table."""

    def __init__(self, psycopg: Any, connection: Any, name: tuple[str, ...]) -> None:
        self.errors = psycopg.errors
        self.connection = connection
        self.name = name
        self._sql = psycopg.sql
        self._table = psycopg.sql.Identifier(*(part.replace("%", "%%") for part in name))  # beside placeholders

    def run(self, query: str, values: Sequence[Any] = (), **parts: Any) -> Any:
        """Ask it; the cursor with its answer."""
        return self.connection.execute(self.composed(query, **parts), list(values))

    def composed(self, query: str, **parts: Any) -> Any:
        """A query with its parts put in."""
        return self._sql.SQL(query).format(table=self._table, **parts)

    def part(self, text: str, *columns: str) -> Any:
        """A part of a query, with the quoted names of columns put in."""
        return self._sql.SQL(text).format(*map(self._sql.Identifier, columns))

    def listed(self, parts: Iterable[Any]) -> Any:
        """Parts with commas between them."""
        return self._sql.SQL(", ").join(parts)

    def literal(self, text: str) -> Any:
        """A text as a constant of SQL."""
        return self._sql.Literal(text.replace("%", "%%"))

    def placeholders(self, count: int) -> Any:
        """Places for so many values, with commas between them."""
        return self.listed(self._sql.Placeholder() for _ in range(count))

    def quoted(self, parts: int | None = None) -> str:
        """The name of the table, or its first parts, as a text that PostgreSQL reads as a name."""
        return self.quoted_name(*self.name[:parts])

    def quoted_name(self, *parts: str) -> str:
        """A name in quotes, as a text."""
        quoted: str = self._sql.Identifier(*parts).as_string()
        return quoted
