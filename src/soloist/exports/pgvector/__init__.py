"""The export to a table of PostgreSQL with pgvector: metadata as jsonb, a vector column for each name of vectors, and
columns of words. The table's comment says how to ask it.
"""

from __future__ import annotations

from dataclasses import replace

from soloist.errors import ConfigError, ExportError
from soloist.exports.client_library import load
from soloist.exports.pgvector.address import shown_address, table_name
from soloist.exports.pgvector.table import PostgresTable
from soloist.exports.report import ExportReport
from soloist.exports.rows import Source
from soloist.exports.stores import fill
from soloist.exports.target import Target


def export(source: Source, target: Target) -> ExportReport:
    """Make the table have the rows of the run, as the only export that writes to it; a batch is a transaction.

    A table is `name`, found or made as the search path has it, or `schema.name`.
    """
    psycopg = load("psycopg", "pgvector", "psycopg")
    if target.url is None or target.out is not None:
        raise ConfigError("the export to pgvector needs --url postgresql://user@host/database, and no --out: give it")
    shown, name = shown_address(psycopg, target.url), table_name(target.table)
    try:
        with psycopg.connect(target.url, autocommit=True) as connection:
            shown_table = f"{shown} ({target.table})"
            store = PostgresTable(psycopg, connection, source, name, shown_table, take_over=target.take_over)
            report = fill(store, source, target)
            return replace(report, notes=(*report.notes, *store.describe()))
    except psycopg.Error as exc:
        is_there = not isinstance(exc, (psycopg.OperationalError, psycopg.NotSupportedError))
        remedy = "correct that" if is_there else "make sure that it runs and has pgvector"
        reason = " ".join((exc.diag.message_primary or str(exc)).split())[:300]  # without the row that it is of
        raise ExportError(f"PostgreSQL at {shown} failed ({reason}): {remedy}, and export again") from exc
    except UnicodeEncodeError as exc:
        raise ExportError(
            f"PostgreSQL at {shown} stores only valid Unicode, and the name of a collection is not: rename that "
            "collection, or choose others with --collections"
        ) from exc
