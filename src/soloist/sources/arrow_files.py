"""The rows of Arrow files: Feather, and the stream and the file of Arrow IPC. Knows Arrow IPC, but not chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from soloist.formats import ARROW
from soloist.sources.arrow_messages import MAGIC, is_file, require_bounded
from soloist.sources.arrow_rows import items_of, require_columns
from soloist.sources.faults import UnreadableFileError, foreign_text, names_text
from soloist.sources.opening import require_not_foreign

_FIRST_FEATHER_MAGIC = b"FEA1"


def read_arrow(file: Path, text_field: str) -> Iterator[Any]:
    """Each row as a dict by column names; a `BadItem` for a row with a value that Python cannot hold.

    Strings in a `metadata` column that are JSON objects are parsed.

    Raises:
        UnreadableFileError: the file is not Arrow, is damaged or cut off, or has a batch that does not fit into memory.
            Or it has no text in the column `text_field`, or two columns of one name.
        OSError: the file cannot be opened or read.
        MemoryError: its rows do not fit into memory.
    """
    n_rows = 0
    with file.open("rb") as raw:
        require_not_foreign(raw, ARROW.name, MAGIC)
        _require_second_version(raw)
        require_bounded(raw)
        try:
            with _opened(raw) as reader:
                require_columns(reader.schema, text_field)
                _require_plain(reader.schema)
                for batch in _batches(reader):
                    batch.validate(full=True)  # an offset beyond the end of a buffer would end the process
                    for item in items_of(batch, reader.schema):
                        yield item
                        n_rows += 1
        except MemoryError:  # Arrow's too: not a fault of the file
            raise
        except (OSError, pa.ArrowException, UnicodeDecodeError) as exc:
            raise UnreadableFileError(f"cannot be read as Arrow from row {n_rows} on ({foreign_text(exc)})") from exc


def _require_second_version(raw: BinaryIO) -> None:
    if raw.read(len(_FIRST_FEATHER_MAGIC)) == _FIRST_FEATHER_MAGIC:
        raise UnreadableFileError("is Feather version 1, which is not supported: write it again as version 2")


def _opened(raw: BinaryIO) -> Any:
    """The reader of a file or of a stream."""
    opened = pa.ipc.open_file if is_file(raw) else pa.ipc.open_stream
    raw.seek(0)
    return opened(pa.PythonFile(raw, mode="r"))


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        yield from reader


def _require_plain(schema: pa.Schema) -> None:
    """Refuse types of which a few bytes can stand for any number of values."""
    unbounded = [field.name for field in schema if any(map(_is_unbounded, _types_in(field.type)))]
    if unbounded:
        raise UnreadableFileError(
            f"has columns of a union or run-end encoded type ({names_text(unbounded)}), which are not supported: write "
            "them as plain columns"
        )


def _is_unbounded(type_: pa.DataType) -> bool:
    return bool(pa.types.is_union(type_) or pa.types.is_run_end_encoded(type_))


def _types_in(type_: pa.DataType) -> Iterator[pa.DataType]:
    """The type and all types inside it."""
    yield type_
    if isinstance(type_, pa.BaseExtensionType):
        yield from _types_in(type_.storage_type)
    elif pa.types.is_dictionary(type_):
        yield from _types_in(type_.value_type)
    else:
        for number in range(type_.num_fields):
            yield from _types_in(type_.field(number).type)
