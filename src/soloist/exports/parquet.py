"""Parquet files, one for each shard of the run; they load as they are in pandas, polars, DuckDB and datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from soloist.exports.columns import Columns
from soloist.exports.folders import ExportFolder
from soloist.exports.report import ExportReport, compare
from soloist.exports.rows import Rows, Source, Vectors
from soloist.exports.target import Target
from soloist.stores import folder_name
from soloist.stores.tables import read_errors


def export(source: Source, target: Target) -> ExportReport:
    """Write what has changed, remove files of shards that are gone, and read a sample back."""
    folder, columns = ExportFolder(target.folder, "parquet"), Columns.of(source)
    names = {at: f"{folder_name(at[0])}-part-{at[1]:05d}.parquet" for at in source.shards}
    before, files = folder.files, {}
    rows_before = sum(_rows(folder.path / name) for name in before)
    folder.begin(names.values())
    written = 0
    for at, name in names.items():
        rows = source.shard(*at)
        files[name] = _digest(columns, rows)
        if before.get(name) == files[name] and (folder.path / name).is_file():
            continue
        written += len(rows)
        with folder.file(name) as temp:
            pq.write_table(columns.table(rows), temp, compression="zstd")
        folder.done(name, files[name])
    folder.finish(files)
    count = sum(_rows(folder.path / name) for name in files)
    return ExportReport(
        target=str(folder.path), rows=source.rows, written=written, unchanged=source.rows - written,
        deleted=max(0, rows_before - source.rows),
        compared=compare(source, str(folder.path), count, lambda keys: _read(folder.path, list(files), columns, keys)),
    )  # fmt: skip


def _rows(path: Path) -> int:
    if not path.is_file():
        return 0
    with read_errors(path):
        return int(pq.read_metadata(path).num_rows)


def _digest(columns: Columns, rows: Rows) -> str:
    """Over the columns and every row."""
    digest = hashlib.sha256(str(columns.schema).encode())
    for key, each in zip(rows.keys, rows.digests, strict=True):
        digest.update(f"{key}{each}".encode())
    return digest.hexdigest()[:32]


def _read(
    folder: Path, files: Sequence[str], columns: Columns, keys: Sequence[str]
) -> Mapping[str, Mapping[str, Vectors]]:
    wanted, found = set(keys), {}
    for file in files:
        with read_errors(folder / file):
            there = pq.read_table(folder / file, columns=["key"])["key"].to_pylist()
            places = [place for place, key in enumerate(there) if key in wanted]
            if places:
                table = pq.read_table(folder / file, columns=["key", *columns.vectors.values()])
                found.update(columns.read(table.take(places)))
    return found
