"""Metadata in the names of folders, as Hive, Spark and pyarrow write it: `lang=en/part-0.parquet`. Pure.

Keys and values are percent-decoded, and stay text. `__HIVE_DEFAULT_PARTITION__` stands for null.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from soloist.sources.faults import NotAChunkError, shortened
from soloist.types import Collection

_NULL = "__HIVE_DEFAULT_PARTITION__"

Partitions = Mapping[str, str | None]


def partition_of(folder_name: str) -> tuple[str, str | None] | None:
    """The key and the value in a folder's name; None where the name is not `key=value`."""
    key, equals, value = folder_name.partition("=")
    if not key or not equals:
        return None
    return unquote(key), None if value == _NULL else unquote(value)


def partitions_of(collection: Collection, file: Path) -> Partitions:
    """The keys and values of the folders from the collection's own down to the file's."""
    folders = (collection.root.name, *file.relative_to(collection.root).parts[:-1])
    return dict(filter(None, map(partition_of, folders)))


def add_partitions(fields: Mapping[str, Any], metadata: dict[str, Any], partitions: Partitions) -> None:
    """Add the folders' keys and values to the metadata, where the chunk does not have them.

    Raises:
        NotAChunkError: the chunk has another value.
    """
    for key, value in partitions.items():
        own = fields[key] if fields.get(key) is not None else metadata.get(key)
        if own is None:
            metadata[key] = value
        elif not _is_same(own, value):
            raise NotAChunkError(
                f"contradicts its folder: its {key!a} is {shortened(ascii(own))}, but the folder says "
                f"{shortened(ascii(value))}"
            )


def _is_same(own: Any, value: str | None) -> bool:
    """Whether a folder and a chunk have the same value: `month=01` equals 1, `draft=true` equals true."""
    if isinstance(own, bool) or not isinstance(own, (int, float)) or value is None:
        return own == value or (isinstance(own, bool) and value == str(own).lower())
    try:
        return float(value) == own
    except ValueError:
        return False
