"""A LanceDB table in a folder, which needs no server: metadata as columns, a column for each name of vectors.

Columns of metadata, told by how their names begin, and of vectors, by their type too, are the export's; all others are
somebody's own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from soloist.arrays import Vectors
from soloist.errors import ExportError
from soloist.exports.client_library import load
from soloist.exports.columns import METADATA, VECTOR, Columns
from soloist.exports.locks import LOCK, exclusive
from soloist.exports.report import ExportReport
from soloist.exports.rows import Rows, Source
from soloist.exports.store_folders import require_store_folder
from soloist.exports.stores import Place, Scope, fill, require_own_places
from soloist.exports.target import Target
from soloist.stores.tables import SOURCE_COLUMNS

# Up to here a scan of all rows is a matter of milliseconds, and an index only loses recall.
INDEXED_ROWS = 100_000
_OUTGROWN = 4  # times the rows that an index was built for: it has half the parts that it should
_KEYS_AT_ONCE = 10_000


def export(source: Source, target: Target) -> ExportReport:
    """Make the table have the rows of the run, as the only export that writes to the folder."""
    lancedb = load("lancedb", "lancedb", "lancedb")
    path = target.folder
    require_store_folder(path, "lancedb", _has_tables)
    columns = Columns.of(source)
    with exclusive(path / LOCK, str(path)):
        try:
            store = _LanceTable(lancedb.connect(str(path)), target.table, source, columns, f"{path} ({target.table})")
            return fill(store, source, target)
        except (OSError, RuntimeError, ValueError) as exc:
            raise ExportError(
                f"LanceDB at {path} failed ({' '.join(str(exc).split())[:300]}): correct that, and export again"
            ) from exc


def _has_tables(path: Path) -> bool:
    return any(path.glob("*.lance"))


class _LanceTable:
    """A table that is open, made where it is not there."""

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
        self.vectors = self._columns.vectors
        self._indexed_rows = indexed_rows
        self.target = target
        self._require_own()

    def places(self, scope: Scope) -> Generator[Sequence[Place], None, None]:
        names = [name for name in ("key", "run", "collection", "id", "digest") if name in self._table.schema.names]
        found = self._table.search().where(self._of(scope)).select(names).limit(max(1, self.count(scope)))
        lost = bool(self._retyped())  # in prepare
        for batch in found.to_batches(_KEYS_AT_ONCE):
            yield [
                Place(row["key"], row.get("run"), row["collection"], row["id"], None if lost else row["digest"])
                for row in batch.to_pylist()
            ]

    def prepare(self, twice: Sequence[str]) -> None:
        for start in range(0, len(twice), _KEYS_AT_ONCE):
            self._leave_one(twice[start : start + _KEYS_AT_ONCE])
        retyped = self._retyped()
        if retyped:
            self._require_nothing_lost(retyped[0])
            self._table.update(values={"digest": ""})  # whatever comes, each row is written again
            self._table.drop_columns([field.name for field in retyped])
        new = [field for field in self._columns.schema if field.name not in self._table.schema.names]
        if new:
            self._table.add_columns(pa.schema(new))

    def add(self, rows: Rows) -> None:
        self._table.add(self._columns.table(rows))

    def update(self, rows: Rows, *, keep: bool) -> None:
        table = self._columns.table(rows)
        for field in self._table.schema:
            is_emptied = field.name.startswith(METADATA) or (_has_vectors(field) and not keep)
            if field.name not in table.column_names and is_emptied:
                table = table.append_column(field, pa.nulls(len(rows), field.type))
        # Columns that the rows do not have stay as they are.
        self._table.merge_insert("key").when_matched_update_all().execute(table, on_bad_vectors="null")

    def delete(self, keys: Sequence[str]) -> None:
        self._table.delete(_among("key", keys))

    def count(self, scope: Scope) -> int:
        return int(self._table.count_rows(self._of(scope)))

    def read(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
        return self._columns.read(self._rows(keys, ["key", *self._columns.vectors.values()]).to_arrow())

    def index(self) -> Sequence[str]:
        self._table.optimize()  # which takes new rows into the indexes that are there
        few = ("LanceDB scans all rows: so few need no index",)
        if self._table.count_rows() < self._indexed_rows:
            return few
        counts = {
            name: self._table.count_rows(f"{column} IS NOT NULL") for name, column in self._columns.vectors.items()
        }
        for name, rows in counts.items():
            if rows >= self._indexed_rows:
                self._index(self._columns.vectors[name], self._source.dims[name], rows)
        if max(counts.values()) < self._indexed_rows:
            return few
        return ("LanceDB's search is approximate: IVF_PQ indexes",)

    def _index(self, column: str, dim: int, rows: int) -> None:
        """Build the index of a column where it has none, or has outgrown it; one that somebody else made stays."""
        prefix = f"{column}_of_"
        there = [each.name for each in self._table.list_indices() if list(each.columns) == [column]]
        built_for = [name.removeprefix(prefix) for name in there if name.startswith(prefix)]
        if len(built_for) < len(there) or any(rows < _OUTGROWN * int(number) for number in built_for):
            return
        self._table.create_index(
            metric="cosine", vector_column_name=column, num_partitions=int(rows**0.5),
            num_sub_vectors=_sub_vectors(dim), name=f"{prefix}{rows}",
        )  # fmt: skip
        for name in there:
            self._table.drop_index(name)

    def _require_own(self) -> None:
        """Refuse a table that no export wrote, or that has no room for the vectors."""
        there, own = self._table.schema, self._columns.schema
        for name in ("key", "run", "collection", "id", "text", *SOURCE_COLUMNS, "digest"):
            if name in there.names and there.field(name).type != own.field(name).type:
                raise ExportError(f"{self.target} is a table that no export wrote: choose another --table")
        if not {"key", "digest", "collection", "id"} <= set(there.names):
            raise ExportError(f"{self.target} is a table that no export wrote: choose another --table")
        require_own_places(self.target, there.names)
        for column in self._columns.vectors.values():
            kind, other = own.field(column).type, there.field(column).type if column in there.names else None
            if other is not None and other != kind:
                raise ExportError(
                    f"{self.target} has {column} of {other}, and the run of {kind}: choose another --table, or drop "
                    "that one"
                )
        for field in there:
            if field.name not in own.names and not field.nullable:
                raise ExportError(
                    f"{self.target} has a column {field.name} that has to have values, and an export has none for it: "
                    "choose another --table, or drop that column"
                )

    def _retyped(self) -> list[pa.Field]:
        """Columns that are there with another type than the run has now."""
        own = self._columns.schema
        return [
            field
            for field in self._table.schema
            if field.name in own.names and field.type != own.field(field.name).type
        ]

    def _require_nothing_lost(self, retyped: pa.Field) -> None:
        """Refuse to empty a column of rows that are not written now, or to write rows without vectors they have."""
        own = self._columns.schema.field(retyped.name).type
        if self._table.count_rows() > self.count(Scope.of(self._source)):
            raise ExportError(
                f"{self.target} has other collections, in which {retyped.name} is {retyped.type} and not {own}: choose "
                "another --table, or export all collections together"
            )
        vectors = self._columns.vectors.values()
        others = [field.name for field in self._table.schema if _has_vectors(field) and field.name not in vectors]
        lost = [name for name in others if self._table.count_rows(f"{name} IS NOT NULL")]
        if lost:
            raise ExportError(
                f"{self.target} has {lost[0]}, which it would lose as {retyped.name} is {retyped.type} there and not "
                f"{own}: export it too, with --vectors all, or choose another --table"
            )

    def _leave_one(self, keys: Sequence[str]) -> None:
        """Take away all rows of a key but one, as two exports at once have left them."""
        found = self._table.search().where(_among("key", keys)).select(["key"]).with_row_id(True)
        rows = found.limit(self._table.count_rows(_among("key", keys))).to_arrow()
        first = dict(zip(reversed(rows["key"].to_pylist()), reversed(rows["_rowid"].to_pylist()), strict=True))
        more = set(rows["_rowid"].to_pylist()) - set(first.values())
        self._table.delete(f"_rowid IN ({', '.join(map(str, sorted(more)))})")

    def _rows(self, keys: Sequence[str], columns: Sequence[str]) -> Any:
        return self._table.search().where(_among("key", keys)).select(list(columns)).limit(max(1, len(keys)))

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


def _has_vectors(field: pa.Field) -> bool:
    """Whether a column is one as exports make for vectors."""
    kind = field.type
    return bool(
        field.name.startswith(VECTOR) and pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type)
    )


def _sub_vectors(dim: int) -> int:
    """Into how many parts a product quantiser cuts a vector: LanceDB wants a divisor, and some 16 numbers in each."""
    return next(parts for parts in range(max(1, dim // 16), 0, -1) if dim % parts == 0)


def _among(column: str, values: Sequence[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})" if values else "false"
