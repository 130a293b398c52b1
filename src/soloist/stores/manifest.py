"""The manifest of a run folder: one row for each file that is finished, and what is in it.

A row is appended once its file is whole, synced and under its name, so what the manifest says is there. A killed writer
leaves at most a row that is cut short, which is dropped. Of two rows for a file the later one holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from soloist.errors import OutputError
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors, sync_folder
from soloist.stores.tables import read_errors
from soloist.types import TokenTally, VectorDType

NAME = "manifest.jsonl"
Kind = Literal["chunks", "vectors", "fused", "fit", "index", "skipped"]
# What a row may name: nothing else in the folder, and nothing outside of it, is ever moved or removed for its sake.
_FILE = re.compile(
    r"skipped\.jsonl|fusion\.safetensors|[^/.\0][^/\0]*/(chunks|fused|vectors/[^/.\0][^/\0]*)/part-\d{5,}\.parquet"
    r"|[^/.\0][^/\0]*/index/[^/.\0][^/\0]*/index\.safetensors"
)
_TALLY = ("tokens", "truncated_rows", "truncated_tokens")
_READ_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A finished file. `file` is its path inside the run folder, with `/`.

    `content` is the digest of the shard's ids and texts (`soloist.digests.shard_digest`); that of an index is over all
    shards of its collection (`soloist.digests.contents_digest`). `fingerprint` is that of the model, or of the fusion
    with its models, that made the vectors. Vectors of a model have a tally of their texts' tokens, as `TokenTally`
    says, over all rows of the file; rows of earlier versions have none. `vector_dtype` is what vectors are stored as; a
    row that does not name it, as those of earlier versions do not, is of float32.
    """

    file: str
    kind: Kind
    rows: int
    bytes: int
    sha256: str
    collection: str = ""
    shard: int = 0
    model: str = ""
    content: str = ""
    fingerprint: str = ""
    tokens: int | None = None
    truncated_rows: int | None = None
    truncated_tokens: int | None = None
    vector_dtype: VectorDType = "float32"

    @property
    def tally(self) -> TokenTally | None:
        """The tally; None where the row has none."""
        if self.tokens is None or self.truncated_rows is None or self.truncated_tokens is None:
            return None
        return TokenTally(
            tokens=self.tokens, truncated_rows=self.truncated_rows, truncated_tokens=self.truncated_tokens
        )


class Manifest:
    """The rows of one run folder. Every call reads or writes the file: several processes may work on a run in turn."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def exists(self) -> bool:
        """Whether the folder has one."""
        return self._path.is_file()

    def read(self) -> dict[str, FileRecord]:
        """The rows by their files. Rows that cannot be read are passed over: their files count as not written.

        Raises:
            OutputError: the file is there and cannot be read.
        """
        records = (_record(line) for line in self._content().splitlines())
        return {record.file: record for record in records if record is not None}

    def append(self, record: FileRecord) -> None:
        """Add a row, synced to the disk.

        Raises:
            OutputError: the disk does not take it.
        """
        with disk_errors(self._path):
            new = not self._path.exists()
            with self._path.open("ab") as file:
                file.write((json_text(_values(record)) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        if new:
            with disk_errors(self._path):
                sync_folder(self._path.parent)

    def mend(self) -> int:
        """Take away rows that cannot be read, such as what a killed writer left of its last one, and count them.

        Raises:
            OutputError: the file cannot be read, or not be written.
        """
        if not self.exists():
            return 0
        content = self._content()
        unreadable = sum(_record(line) is None for line in content.splitlines())
        if unreadable or (content and not content.endswith(b"\n")):  # a last row may be whole but for its end
            self.replace(self.read().values())
        return unreadable

    def _content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise OutputError(
                f"{self._path} cannot be read: {exc.strerror}: allow reading the file, and run the command again"
            ) from exc

    def replace(self, records: Iterable[FileRecord]) -> None:
        """Write the whole manifest, one row a file, in the order of their paths."""
        with atomic_path(self._path) as temp, disk_errors(self._path), temp.open("wb") as file:
            for record in sorted(records, key=lambda record: record.file):
                file.write((json_text(_values(record)) + "\n").encode())


def record_of(root: Path, path: Path, kind: Kind, rows: int, **what: Any) -> FileRecord:
    """The record of a file that was just written below `root`, with its size and checksum as they are on the disk.

    Raises:
        OutputError: the file cannot be read.
    """
    with read_errors(path):
        size, sha256 = path.stat().st_size, file_sha256(path)
    file = path.relative_to(root).as_posix()
    return FileRecord(file=file, kind=kind, rows=rows, bytes=size, sha256=sha256, **what)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def is_intact(path: Path, record: FileRecord) -> bool:
    """Whether the file at `path` is there with the bytes that the record says."""
    try:
        return path.stat().st_size == record.bytes and file_sha256(path) == record.sha256
    except OSError:
        return False


def _values(record: FileRecord) -> Mapping[str, Any]:
    values = dataclasses.asdict(record)
    if record.vector_dtype == "float32":  # as the rows of earlier versions, and of files that have no vectors
        del values["vector_dtype"]
    return {key: value for key, value in values.items() if value not in ("", None) or key == "collection"}


def _record(line: bytes) -> FileRecord | None:
    try:
        values = json.loads(line)
        known = {field.name for field in dataclasses.fields(FileRecord)}
        record = FileRecord(**{key: value for key, value in values.items() if key in known})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    kinds = dict.fromkeys(("rows", "bytes", "shard"), int) | dict.fromkeys(_TALLY, int | None)
    for field in dataclasses.fields(FileRecord):
        if not isinstance(getattr(record, field.name), kinds.get(field.name, str)):
            return None
    if record.vector_dtype not in get_args(VectorDType):
        return None
    return record if _FILE.fullmatch(record.file) else None
