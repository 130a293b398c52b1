"""The rows of a LanceDB table: read, written, deleted and counted."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from soloist.exports.asking import write_beside
from soloist.exports.columns import METADATA, Columns
from soloist.exports.lancedb.asking import how_to_ask_table
from soloist.exports.lancedb.indexes import INDEXED_ROWS, make_indexes, make_word_index
from soloist.exports.lancedb.schema import has_vectors, require_nothing_lost, require_own, retyped
from soloist.exports.ragged_columns import JoinedColumn
from soloist.exports.report import Found, as_they_are
from soloist.exports.rows import Rows, Source
from soloist.exports.stores import Scope, StoreRow

_KEYS_AT_ONCE = 10_000


class LanceTable:
    """A table that is open, made where it is not there; a `Store`."""

    normalises = False

    def __init__(
        self,
        database: Any,
        name: str,
        source: Source,
        columns: Columns,
        target: str,
        indexed_rows: int = INDEXED_ROWS,
    ) -> None:
        self._table = _opened(database, name, columns.schema)
        self._source = source
        self._columns = columns.fitted(self._table.schema)
        self.vectors: Mapping[str, str] = self._columns.names
        self._indexed_rows = indexed_rows
        self.target = target
        require_own(target, self._table.schema, self._columns)

    def scan(self, scope: Scope) -> Generator[Sequence[StoreRow], None, None]:
        """All rows of a scope, a batch at a time."""
        names = [name for name in ("key", "run", "collection", "id", "digest") if name in self._table.schema.names]
        found = self._table.search().where(self._of(scope)).select(names).limit(max(1, self.count(scope)))
        lost = bool(retyped(self._table.schema, self._columns.schema))  # in prepare
        for batch in found.to_batches(_KEYS_AT_ONCE):
            yield [
                StoreRow(row["key"], row.get("run"), row["collection"], row["id"], None if lost else row["digest"])
                for row in batch.to_pylist()
            ]

    def prepare(self, twice: Sequence[str]) -> None:
        """Leave one row of each key, drop columns whose type has changed, and add those that are missing."""
        for start in range(0, len(twice), _KEYS_AT_ONCE):
            self._leave_one(twice[start : start + _KEYS_AT_ONCE])
        changed = retyped(self._table.schema, self._columns.schema)
        if changed:
            has_others = self._table.count_rows() > self.count(Scope.of(self._source))
            require_nothing_lost(
                self.target, self._table.schema, self._columns, changed[0], has_others=has_others,
                count=self._table.count_rows,
            )  # fmt: skip
            self._table.update(values={"digest": ""})  # whatever comes, each row is written again
            self._table.drop_columns([field.name for field in changed])
        new = [field for field in self._columns.schema if field.name not in self._table.schema.names]
        if new:
            self._table.add_columns(pa.schema(new))

    def add(self, rows: Rows) -> None:
        """Write rows whose keys are not there."""
        self._table.add(self._columns.table(rows))

    def update(self, rows: Rows, *, keep: bool) -> None:
        """Write rows over those with their keys. Columns that are somebody's own stay as they are."""
        table = self._columns.table(rows)
        for field in self._table.schema:
            is_emptied = field.name.startswith(METADATA) or (has_vectors(field, self._table.schema) and not keep)
            if field.name not in table.column_names and is_emptied:
                table = table.append_column(field, pa.nulls(len(rows), field.type))
        # Columns that the rows do not have stay as they are.
        self._table.merge_insert("key").when_matched_update_all().execute(table, on_bad_vectors="null")

    def delete(self, keys: Sequence[str]) -> None:
        """Take rows away."""
        self._table.delete(_among("key", keys))

    def count(self, scope: Scope) -> int:
        """How many rows of a scope there are."""
        return int(self._table.count_rows(self._of(scope)))

    def read(self, keys: Sequence[str]) -> Found:
        """What rows have of each member, by key and name."""
        names = self._columns.read_columns
        found = self._table.search().where(_among("key", keys)).select(names).limit(max(1, len(keys)))
        return self._columns.read(found.to_arrow())

    kept = staticmethod(as_they_are)

    def index(self) -> Sequence[str]:
        """Make IVF_PQ indexes of the columns with enough vectors, and indexes of words; notes for the user."""
        for ragged in self._columns.ragged.values():
            if isinstance(ragged, JoinedColumn):
                make_word_index(self._table, ragged.words)
        return make_indexes(self._table, self._columns.vectors, self._source.dims, self._indexed_rows)

    def describe(self, path: Path) -> Sequence[str]:
        """Say in a file of the folder how to ask the table; notes for the user. A file of somebody else's stays."""
        text = how_to_ask_table(self._source, self._table.name, str(path.absolute()), self._columns)
        return write_beside(path / f"README-{self._table.name}.md", text)

    def _leave_one(self, keys: Sequence[str]) -> None:
        """Take away all rows of a key but one, as two exports at once have left them."""
        found = self._table.search().where(_among("key", keys)).select(["key"]).with_row_id(True)
        rows = found.limit(self._table.count_rows(_among("key", keys))).to_arrow()
        first = dict(zip(reversed(rows["key"].to_pylist()), reversed(rows["_rowid"].to_pylist()), strict=True))
        more = set(rows["_rowid"].to_pylist()) - set(first.values())
        self._table.delete(f"_rowid IN ({', '.join(map(str, sorted(more)))})")

    def _of(self, scope: Scope) -> str:
        among = _among("collection", scope.collections)
        if scope.run is None or "run" not in self._table.schema.names:
            return among
        return f"{among} OR {_among('run', [scope.run])}"


def _opened(database: Any, name: str, schema: pa.Schema) -> Any:
    """The table, made where it is not there, or was being made when an export was killed."""
    try:
        return database.open_table(name)
    except (ValueError, FileNotFoundError):
        return database.create_table(name, schema=schema)


def _among(column: str, values: Sequence[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})" if values else "false"
