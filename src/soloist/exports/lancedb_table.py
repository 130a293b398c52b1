"""A LanceDB table in a folder, which needs no server: metadata as columns, a column for each name of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from soloist.errors import ExportError
from soloist.exports.columns import Columns
from soloist.exports.extras import load
from soloist.exports.report import ExportReport
from soloist.exports.rows import Rows, Source, Vectors
from soloist.exports.stores import Place, fill
from soloist.exports.target import Target

# Up to here a scan of all rows is a matter of milliseconds, and an index only loses recall.
INDEXED_ROWS = 100_000
_OUTGROWN = 4  # times the rows that an index was built for: it has half the parts that it should
_KEYS_AT_ONCE = 10_000


def export(source: Source, target: Target) -> ExportReport:
    """Make the table have the rows of the run."""
    lancedb = load("lancedb", "lancedb", "lancedb")
    columns = Columns.of(source)
    path = target.folder
    if path.is_file():
        raise ExportError(f"{path} is a file: choose a folder for the export to lancedb")
    try:
        database = lancedb.connect(str(path))
        store = _LanceTable(database, target.table, source, columns, f"{path} ({target.table})")
        return fill(store, source, target)
    except (OSError, RuntimeError, ValueError) as exc:
        raise ExportError(
            f"LanceDB at {path} failed ({' '.join(str(exc).split())[:300]}): correct that, and export again"
        ) from exc


def _table(database: Any, name: str, columns: Columns, target: str) -> Any:
    """The table, made where it is not there."""
    if name not in database.list_tables().tables:
        return database.create_table(name, schema=columns.schema)
    table = database.open_table(name)
    there = table.schema
    for column in columns.vectors.values():
        kind, other = columns.schema.field(column).type, there.field(column).type if column in there.names else None
        if other is not None and other != kind:
            raise ExportError(
                f"{target} has {column} of {other}, and the run of {kind}: choose another --table, or drop that one"
            )
    if not {"key", "digest", "collection", "id"} <= set(there.names):
        raise ExportError(f"{target} is a table that no export wrote: choose another --table")
    return table


def _with_columns(database: Any, table: Any, columns: Columns, source: Source, target: str) -> Any:
    """The table with an export's columns too; made anew where one has another type and nothing else is in it."""
    there = table.schema
    other = [each for each in columns.schema if each.name in there.names and there.field(each.name).type != each.type]
    if other:
        if table.count_rows(f"collection IS NULL OR NOT ({_among('collection', source.collections)})"):
            raise ExportError(
                f"{target} has other collections, in which {other[0].name} is {there.field(other[0].name).type} and "
                f"not {other[0].type}: choose another --table, or export all collections together"
            )
        lost = [name for name in _other_vectors(table, columns) if table.count_rows(f"{name} IS NOT NULL")]
        if lost:
            raise ExportError(
                f"{target} has {lost[0]}, which it would lose as {other[0].name} is {there.field(other[0].name).type} "
                f"there and not {other[0].type}: export it too, with --vectors all, or choose another --table"
            )
        return database.create_table(table.name, schema=columns.schema, mode="overwrite")
    new = [field for field in columns.schema if field.name not in there.names]
    if new:
        table.add_columns(pa.schema(new))
    return table


def _other_vectors(table: Any, columns: Columns) -> list[str]:
    """The columns of vectors by names that are not exported now."""
    own = set(columns.vectors.values())
    return [name for name in table.schema.names if name.startswith("vector_") and name not in own]


class _LanceTable:
    """A table that is open, made where it is not there."""

    normalises = False

    def __init__(self, database: Any, name: str, source: Source, columns: Columns, target: str) -> None:
        self._database = database
        self._table = _table(database, name, columns, target)
        self._source = source
        self._columns = columns
        self.target = target

    def prepare(self) -> None:
        self._columns = self._columns.widened(self._table.schema)
        self._table = _with_columns(self._database, self._table, self._columns, self._source, self.target)

    def marks(self, keys: Sequence[str]) -> Mapping[str, object]:
        found = self._rows(keys, ["key", "digest"])
        return dict(zip(found["key"].to_pylist(), found["digest"].to_pylist(), strict=True))

    def upsert(self, rows: Rows) -> None:
        self._merge(self._columns.table(rows), len(rows))

    def update(self, rows: Rows) -> None:
        table, others = self._columns.table(rows), _other_vectors(self._table, self._columns)
        if others:
            there = self._rows(rows.keys, ["key", *others])
            at = {key: place for place, key in enumerate(there["key"].to_pylist())}
            there = there.take([at[key] for key in rows.keys])
            for name in others:
                table = table.append_column(there.schema.field(name), there[name])
        self._merge(table, len(rows))

    def _merge(self, table: pa.Table, rows: int) -> None:
        merge = self._table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
        for field in self._table.schema:  # of other collections, or of an export of other vectors
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(rows, field.type))
        merge.execute(table, on_bad_vectors="null")  # it counts those that are not there among the bad

    def places(self, collections: Sequence[str]) -> Iterator[Sequence[Place]]:
        names = [name for name in ("key", "run", "collection", "id") if name in self._table.schema.names]
        chosen = self._table.search().where(_among("collection", collections)).select(names)
        found = chosen.limit(max(1, self.count(collections))).to_arrow()
        for batch in found.to_batches(max_chunksize=_KEYS_AT_ONCE):
            yield [Place(row["key"], row.get("run"), row["collection"], row["id"]) for row in batch.to_pylist()]

    def delete(self, keys: Sequence[str]) -> None:
        self._table.delete(_among("key", keys))

    def count(self, collections: Sequence[str]) -> int:
        return int(self._table.count_rows(_among("collection", collections)))

    def read(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
        return self._columns.read(self._rows(keys, ["key", *self._columns.vectors.values()]))

    def index(self, rows: int) -> Sequence[str]:
        self._table.optimize()  # which takes new rows into the indexes that are there
        if rows < INDEXED_ROWS:
            return ("LanceDB scans all rows: so few need no index",)
        for name, dim in self._source.dims.items():
            self._index(self._columns.vectors[name], dim, rows)
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

    def _rows(self, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
        return self._table.search().where(_among("key", keys)).select(list(columns)).limit(max(1, len(keys))).to_arrow()


def _sub_vectors(dim: int) -> int:
    """Into how many parts a product quantiser cuts a vector: LanceDB wants a divisor, and some 16 numbers in each."""
    return next(parts for parts in range(max(1, dim // 16), 0, -1) if dim % parts == 0)


def _among(column: str, values: Sequence[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})" if values else "false"
