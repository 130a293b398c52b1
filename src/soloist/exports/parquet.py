"""Parquet files, one for each shard of the run; they load as they are in pandas, polars, DuckDB and datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from soloist.exports.columns import column_of, metadata_types, schema_of, table_of
from soloist.exports.folders import ExportFolder
from soloist.exports.report import ExportReport, compare
from soloist.exports.rows import Rows, Source, Vectors
from soloist.exports.target import Target
from soloist.stores import folder_name
from soloist.stores.tables import read_errors, table_matrix


def export(source: Source, target: Target) -> ExportReport:
    """Write what has changed, remove files of shards that are gone, and read a sample back."""
    folder = ExportFolder(target.folder, "parquet")
    schema = schema_of(source, metadata_types(source))
    names = {at: f"{folder_name(at[0])}-part-{at[1]:05d}.parquet" for at in source.shards}
    before, files = folder.files, {}
    folder.begin(names.values())
    written = 0
    for at, name in names.items():
        rows = source.shard(*at)
        files[name] = _digest(schema, rows)
        if before.get(name) == files[name] and (folder.path / name).is_file():
            continue
        written += len(rows)
        with folder.file(name) as temp:
            pq.write_table(table_of(rows, schema), temp, compression="zstd")
        folder.done(name, files[name])
    gone = sum(
        pq.read_metadata(folder.path / name).num_rows
        for name in before
        if name not in files and (folder.path / name).is_file()
    )
    folder.finish(files)
    count = sum(pq.read_metadata(folder.path / name).num_rows for name in files)
    return ExportReport(
        target=str(folder.path), rows=source.rows, written=written, unchanged=source.rows - written, deleted=gone,
        compared=compare(source, str(folder.path), count, lambda keys: _read(folder.path, list(files), source, keys)),
    )  # fmt: skip


def _digest(schema: pa.Schema, rows: Rows) -> str:
    """Over the columns and every row."""
    digest = hashlib.sha256(str(schema).encode())
    for key, each in zip(rows.keys, rows.digests, strict=True):
        digest.update(f"{key}{each}".encode())
    return digest.hexdigest()[:32]


def _read(
    folder: Path, files: Sequence[str], source: Source, keys: Sequence[str]
) -> Mapping[str, Mapping[str, Vectors]]:
    wanted, found = set(keys), {}
    for file in files:
        with read_errors(folder / file):
            there = pq.read_table(folder / file, columns=["key"])["key"].to_pylist()
            places = [place for place, key in enumerate(there) if key in wanted]
            if not places:
                continue
            columns = {name: column_of(name) for name in source.dims}
            table = pq.read_table(folder / file, columns=list(columns.values())).take(places)
        vectors = {
            name: table_matrix(table.select([column]).rename_columns(["vector"])) for name, column in columns.items()
        }
        for row, place in enumerate(places):
            found[there[place]] = {name: matrix[row] for name, matrix in vectors.items()}
    return found
