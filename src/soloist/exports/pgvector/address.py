"""The address of a PostgreSQL server and the name of a table in it. Pure, beside libpq's own reading of an address."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from soloist.errors import ConfigError

_NAME_BYTES = 63  # of an identifier of PostgreSQL; longer ones it cuts without a word


def shown_address(psycopg: Any, url: str) -> str:
    """Host, port and database of an address in any of libpq's forms, without the password.

    Raises:
        ConfigError: it is not an address.
    """
    parts = _address(psycopg, url)
    port = f":{parts['port']}" if "port" in parts else ""
    return f"{parts.get('host', 'localhost')}{port}/{parts.get('dbname', '')}"


def _address(psycopg: Any, url: str) -> Mapping[str, str]:
    """What an address is made of. No error repeats it, nor libpq's own: a `/` or `@` in a password misleads both."""
    try:
        parts: dict[str, str] = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        parts = {"port": "unknown"}
    if "@" in parts.get("host", "") + parts.get("dbname", "") or not parts.get("port", "0").replace(",", "").isdigit():
        raise ConfigError(
            "the --url of pgvector is not the address of a PostgreSQL server: give "
            "postgresql://user@host:port/database; give the password in PGPASSWORD, or in the URL with its special "
            "characters percent-encoded"
        ) from None
    return parts


def table_name(table: str) -> tuple[str, ...]:
    """The parts of a table's name: a dot is between the schema and the name in it.

    Raises:
        ConfigError: it is not a name.
    """
    parts = table.split(".")
    if len(parts) > 2 or not all(parts) or any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in table):
        raise ConfigError(
            f"--table {table!r} is not the name of a PostgreSQL table: give it as name, or as schema.name"
        )
    return tuple(map(identifier, parts))


def identifier(name: str) -> str:
    """A name that PostgreSQL keeps whole: a long one ends with a digest."""
    if len(name.encode()) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: _NAME_BYTES - 9].decode(errors='ignore')}_{digest}"
