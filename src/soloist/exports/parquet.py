"""Parquet files, one for each shard of the run; they load as they are in pandas, polars, DuckDB and datasets."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from soloist.digests import DigestTable
from soloist.errors import OutputError
from soloist.exports.asking import write_beside
from soloist.exports.columns import Columns
from soloist.exports.folders import ExportFolder, export_folder
from soloist.exports.readme import LISTS, beside, readme
from soloist.exports.report import ExportReport, Found, compare
from soloist.exports.rows import Rows, Source
from soloist.exports.target import Target
from soloist.stores import folder_name
from soloist.stores.tables import read_errors

_LOADING = """\
import pyarrow.parquet

FOLDER = {folder!r}
FILES = {files!r}
table = pyarrow.concat_tables([pyarrow.parquet.read_table(f"{{FOLDER}}/{{file}}") for file in FILES])
ids = list(zip(table["collection"].to_pylist(), table["id"].to_pylist()))
dense = {{name: np.array(table[column].to_pylist()) for name, column in {dense!r}.items()}}


{lists}

sparse, counts, terms = {{}}, {{}}, {{}}
for name, (keys, values, dim) in {sparse!r}.items():
    sparse[name] = matrix(table[keys].to_pylist(), table[values].to_pylist(), dim)
for name, (keys, values) in {words!r}.items():
    terms[name], columns = numbered(table[keys].to_pylist())
    counts[name] = matrix(columns, table[values].to_pylist(), len(terms[name]))
"""


def export(source: Source, target: Target) -> ExportReport:
    """Write what has changed, remove files of shards that are gone, and read a sample back."""
    with export_folder(source, target, "parquet") as folder:
        return _filled(folder, source, Columns.of(source).keeping(_names_there(folder)))


def _filled(folder: ExportFolder, source: Source, columns: Columns) -> ExportReport:
    names = {at: _file_name(*at) for at in source.shards}
    keys = source.keys()
    deleted = sum(_gone_count(folder.path / name, keys) for name in folder.files if name not in names.values())
    written = 0
    for at in source.each_shard():
        name, rows = names[at], source.shard(*at)
        digest = _digest(columns, rows)
        if folder.has(name, digest):
            continue
        written += len(rows)
        deleted += _gone_count(folder.path / name, keys)
        with folder.replacing(name, digest, columns.schema) as temp:
            pq.write_table(columns.table(rows), temp, compression="zstd")
    count = sum(_rows(folder.path / name) for name in names.values())
    compared = compare(
        source, str(folder.path), count, lambda keys: _read(folder.path, list(names.values()), columns, keys)
    )  # fmt: skip
    folder.finish(names.values(), columns.schema)
    # Beside the folder: polars reads every file of it.
    text = _readme(source, folder.path, list(names.values()), columns) if source.ragged else None
    notes = write_beside(beside(folder.path), text)
    return ExportReport(
        target=str(folder.path), rows=source.rows, written=written, unchanged=source.rows - written, deleted=deleted,
        compared=compared, vectors=columns.names, notes=notes,
    )  # fmt: skip


def _file_name(collection: str, index: int) -> str:
    """The file of a shard. pyarrow and pandas skip names that begin with `_` in a folder."""
    name = folder_name(collection)
    if name.startswith("_"):
        name = folder_name(f"collection\0{collection}")  # has a digest, and no collection has a name with this byte
    return f"{name}-part-{index:05d}.parquet"


def _names_there(folder: ExportFolder) -> list[str]:
    """The columns of the first file of the export before that can be read."""
    for name in folder.files:
        with contextlib.suppress(OutputError), read_errors(folder.path / name):
            return list(pq.read_schema(folder.path / name).names)
    return []


def _rows(path: Path) -> int:
    if not path.is_file():
        return 0
    with read_errors(path):
        return int(pq.read_metadata(path).num_rows)


def _gone_count(path: Path, keys: DigestTable) -> int:
    """How many rows of a file that goes are of chunks that the run does not have; 0 where it cannot be read."""
    try:
        with read_errors(path):
            there = pq.read_table(path, columns=["key"])["key"].to_pylist()
            return sum(keys.find(uuid.UUID(str(key)).bytes) is None for key in there)
    except OutputError:  # missing, damaged, or somebody's: it is written again
        return 0


def _digest(columns: Columns, rows: Rows) -> str:
    """Over the columns and every row."""
    digest = hashlib.sha256(str(columns.schema).encode())
    for key, mark in zip(rows.keys, rows.marks, strict=True):
        digest.update(f"{key}{mark}".encode())
    return digest.hexdigest()[:32]


def _read(folder: Path, files: Sequence[str], columns: Columns, keys: Sequence[str]) -> Found:
    wanted, found = set(keys), {}
    for file in files:
        with read_errors(folder / file):
            there = pq.read_table(folder / file, columns=["key"])["key"].to_pylist()
            numbers = [number for number, key in enumerate(there) if key in wanted]
            if numbers:
                table = pq.read_table(folder / file, columns=columns.read_columns)
                found.update(columns.read(table.take(numbers)))
    return found


def _readme(source: Source, folder: Path, files: Sequence[str], columns: Columns) -> str:
    lists = {name: there.names for name, there in columns.ragged.items()}
    members = source.ragged
    loading = _LOADING.format(
        folder=str(folder.absolute()), files=list(files), dense=dict(columns.vectors), lists=LISTS,
        sparse={name: (*lists[name], member.dim) for name, member in members.items() if member.kind == "sparse"},
        words={name: lists[name] for name, member in members.items() if member.kind == "lexical"},
    )  # fmt: skip
    return readme(
        source,
        title="A run of soloist as Parquet files",
        files="""\
- A `vector_` column has dense vectors.
- An `indices_` column has the dimensions of a sparse vector, and the `values_` column beside it their values.
- A `terms_` column has the terms of a text, and the `counts_` column beside it how often each is there.
""",
        loading=loading,
    )
