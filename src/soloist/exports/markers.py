"""The marker of a folder of files: whose export they are, which of them are finished, and their checksums.

It is JSON. Among Parquet files it is the metadata of one that has their columns and no rows: polars reads every file of
a folder, whatever its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from soloist.exported import MARKER, MARKERS, PARQUET_MARKER
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors

_KEY = b"soloist.export"
_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True)
class File:
    """A file: the digest of what it is of, or none where it may be half of another export's, and that of its bytes
    unless it is written again each time.
    """

    of: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What is in a folder: files, the kind and the run of the export, and the names of its vectors and collections."""

    to: str
    run: str | None = None  # of an earlier version, which did not say
    finished: bool = False
    vectors: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    files: Mapping[str, File] = dataclasses.field(default_factory=dict)


def marker_name(kind: str) -> str:
    """The name of the marker of an export of this kind."""
    return PARQUET_MARKER if kind == "parquet" else MARKER


def read_marker(folder: Path) -> Marker | None:
    """What the marker of a folder says; None where there is none. Of two, a killed export left the older one."""
    markers = (_read(folder / name) for name in MARKERS)
    return next((marker for marker in markers if marker is not None), None)


def write_marker(folder: Path, marker: Marker, schema: pa.Schema) -> None:
    """Write the marker, and remove one of an earlier version; among Parquet files it has the columns of `schema`.

    Raises:
        OutputError: the disk does not take it.
    """
    path = folder / marker_name(marker.to)
    text = json_text(dataclasses.asdict(marker), indent=2) + "\n"
    with atomic_path(path) as temp, disk_errors(path):
        if path.suffix == _SUFFIX:
            pq.ParquetWriter(temp, schema.with_metadata({_KEY: text})).close()  # without a group of no rows
        else:
            temp.write_text(text, encoding="utf-8")
    with disk_errors(folder):
        for name in MARKERS:
            if name != path.name:
                (folder / name).unlink(missing_ok=True)


def is_where_it_belongs(folder: Path, kind: str) -> bool:
    """Whether the marker of a folder is the one that this version writes, and the only one."""
    return [name for name in MARKERS if (folder / name).exists()] == [marker_name(kind)]


def _read(path: Path) -> Marker | None:
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException):
        return _marker(json.loads(_text(path)))
    return None


def _text(path: Path) -> str | bytes:
    if path.suffix != _SUFFIX:
        return path.read_text(encoding="utf-8")
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata
    return metadata[_KEY]


def _marker(known: dict[str, Any]) -> Marker | None:
    files = {name: File(**file) if isinstance(file, dict) else File("") for name, file in known["files"].items()}
    if any(Path(name).name != name for name in files):  # no export wrote that, and they may be removed
        return None
    return Marker(
        to=str(known["to"]), run=known.get("run"), finished=known.get("finished") is True,
        vectors=tuple(known.get("vectors", ())), collections=tuple(known.get("collections", ())), files=files,
    )  # fmt: skip
