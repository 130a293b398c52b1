"""What the folders of a table say of its rows, as Hive, Spark and pyarrow lay them out: `lang=en/part-0.parquet`. Pure.

A key and a value are percent-decoded, and stay text. `__HIVE_DEFAULT_PARTITION__` stands for null.
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
    """The key and the value that the name of a folder says; None where it is no `key=value`."""
    key, equals, value = folder_name.partition("=")
    if not key or not equals:
        return None
    return unquote(key), None if value == _NULL else unquote(value)


def partitions_of(collection: Collection, file: Path) -> Partitions:
    """What the folders between the collection and one of its files say, the collection's own name included."""
    folders = (collection.root.name, *file.relative_to(collection.root).parts[:-1])
    return dict(filter(None, map(partition_of, folders)))


def add_partitions(fields: Mapping[str, Any], metadata: dict[str, Any], partitions: Partitions) -> None:
    """Add to the metadata what the folders say, where the chunk does not say it itself.

    Raises:
        NotAChunkError: the chunk says something else.
    """
    for key, value in partitions.items():
        own = fields[key] if fields.get(key) is not None else metadata.get(key)
        if own is None:
            metadata[key] = value
        elif not _is_same(own, value):
            raise NotAChunkError(
                f"contradicts its folder: its {key!a} is {shortened(ascii(own))}, and the folder says "
                f"{shortened(ascii(value))}"
            )


def _is_same(own: Any, value: str | None) -> bool:
    """Whether a folder says what a chunk does: `month=01` is a month of 1, `draft=true` is true."""
    if isinstance(own, bool) or not isinstance(own, (int, float)) or value is None:
        return own == value or (isinstance(own, bool) and value == str(own).lower())
    try:
        return float(value) == own
    except ValueError:
        return False
