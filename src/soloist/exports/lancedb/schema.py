"""The columns that a LanceDB table has, beside those that an export needs. Reads schemas, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from soloist.errors import ExportError
from soloist.exports.columns import VECTOR, Columns, member_column
from soloist.exports.ragged_columns import JOINED
from soloist.exports.stores import require_own_places
from soloist.models.catalogue import BUILT_IN
from soloist.stores.tables import PLACE_COLUMNS

_LISTS = {"indices_": pa.list_(pa.uint32()), "values_": pa.list_(pa.float32())}
_WORDS = {member_column("words_", spec.name) for spec in BUILT_IN.specs if spec.kind == "lexical"}  # there are no more


def require_own(target: str, there: pa.Schema, columns: Columns) -> None:
    """Refuse a table that no export wrote, or that has no room for the vectors.

    Raises:
        ExportError: it is such a table.
    """
    own = columns.schema
    for name in ("key", "run", "collection", "id", "text", *PLACE_COLUMNS, "digest"):
        if name in there.names and there.field(name).type != own.field(name).type:
            raise ExportError(f"{target} is a table that no export wrote: choose another --table")
    if not {"key", "digest", "collection", "id"} <= set(there.names):
        raise ExportError(f"{target} is a table that no export wrote: choose another --table")
    require_own_places(target, there.names)
    for column in columns.read_columns[1:]:
        kind, other = own.field(column).type, there.field(column).type if column in there.names else None
        if other is not None and other != kind:
            raise ExportError(
                f"{target} has {column} of {other}, and the run of {kind}: choose another --table, or drop the table"
            )
    for field in there:
        if field.name not in own.names and not field.nullable:
            raise ExportError(
                f"{target} has a column {field.name} that has to have values, and an export has none for it: "
                "choose another --table, or drop that column"
            )


def retyped(there: pa.Schema, own: pa.Schema) -> list[pa.Field]:
    """Columns that are there with another type than the run has now."""
    return [field for field in there if field.name in own.names and field.type != own.field(field.name).type]


def require_nothing_lost(
    target: str, there: pa.Schema, columns: Columns, changed: pa.Field, *, has_others: bool, count: Callable[[str], int]
) -> None:
    """Refuse to empty a column of rows that are not written now, or to write rows without vectors they have.

    `has_others` is whether the table has rows that are not written now; `count` is of the rows under a condition.

    Raises:
        ExportError: something would be lost.
    """
    own = columns.schema.field(changed.name).type
    if has_others:
        raise ExportError(
            f"{target} has other collections, in which {changed.name} is {changed.type} and not {own}: choose another "
            "--table, or export all collections together"
        )
    written = columns.read_columns
    others = [field.name for field in there if has_vectors(field, there) and field.name not in written]
    lost = [name for name in others if count(f"{name} IS NOT NULL")]
    if lost:
        raise ExportError(
            f"the column {changed.name} of {target} is {changed.type} and has to become {own}, so all rows are written "
            f"again and would lose {lost[0]}: export {lost[0]} too, with --vectors all, or choose another --table"
        )


def has_vectors(field: pa.Field, there: pa.Schema) -> bool:
    """Whether a column of a table is one as exports make for vectors, sparse vectors or words.

    Two columns of one name are those of sparse vectors. Words have the names of the members that there can be.
    """
    kind = field.type
    if field.name in _WORDS:
        return bool(kind == JOINED)
    beginning = next((name for name in _LISTS if field.name.startswith(name)), None)
    if beginning is not None:
        both = {each + field.name.removeprefix(beginning): of for each, of in _LISTS.items()}
        return all(name in there.names and there.field(name).type == of for name, of in both.items())
    return bool(
        field.name.startswith(VECTOR) and pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type)
    )
