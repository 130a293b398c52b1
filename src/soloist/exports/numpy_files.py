"""NumPy arrays: one `.npy` of all rows for each name of vectors, and `ids.jsonl` with a line for each row."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from soloist.arrays import Vectors
from soloist.exports.folders import ExportFolder, export_folder
from soloist.exports.report import ExportReport, compare
from soloist.exports.rows import Source, key_of
from soloist.exports.target import Target
from soloist.jsontext import json_text
from soloist.stores import folder_name
from soloist.stores.atomic import disk_errors

IDS = "ids.jsonl"
_KEY = re.compile(rb'\{"key": ?"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')


def export(source: Source, target: Target) -> ExportReport:
    """Write all arrays, in the order of the run, and read a sample back."""
    with export_folder(source, target, "numpy") as folder:
        return _filled(folder, source)


def _filled(folder: ExportFolder, source: Source) -> ExportReport:
    arrays = {name: f"{folder_name(name)}.npy" for name in source.dims}
    deleted = gone_count(folder.path / IDS, source)
    with folder.switching() as path_of:
        _write(source, {name: path_of(file) for name, file in arrays.items()})
        write_ids(source, path_of(IDS))
    count = row_count(folder.path / IDS)
    return ExportReport(
        target=str(folder.path), rows=source.rows, written=source.rows, unchanged=0, deleted=deleted,
        compared=compare(source, str(folder.path), count, lambda keys: _read(folder.path, arrays, keys)),
        vectors=arrays,
    )  # fmt: skip


def write_ids(source: Source, path: Path) -> None:
    """`ids.jsonl`: key, collection, id and place of each row, in the order of the vectors."""
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for collection, shard in source.shards:
            for id_, file, index in source.places(collection, shard):
                row = {"key": key_of(collection, id_), "collection": collection, "id": id_}
                lines.write(json_text({**row, "source_file": file, "source_index": index}) + "\n")


def row_count(path: Path) -> int:
    """The lines of a file; 0 where there is no file."""
    if not path.is_file():
        return 0
    with disk_errors(path), path.open("rb") as file:
        return sum(1 for _ in file)


def gone_count(path: Path, source: Source) -> int:
    """How many rows of a file of JSON lines are of chunks that the run does not have; 0 where there is none."""
    if not path.is_file():
        return 0
    keys = source.keys()
    with disk_errors(path), path.open("rb") as lines:
        return sum(1 for line in lines if (found := _KEY.match(line)) and keys.find(bytes.fromhex(_hex(found))) is None)


def _hex(key: re.Match[bytes]) -> str:
    return key[1].decode().replace("-", "")


def row_numbers(path: Path, keys: Sequence[str]) -> dict[str, int]:
    """The numbers of the rows with these keys, by `ids.jsonl`."""
    wanted = set(keys)
    with path.open(encoding="utf-8") as lines:
        found = ((line.split('"', 4)[3], row) for row, line in enumerate(lines))  # the key is its first value
        return {key: row for key, row in found if key in wanted}


def _write(source: Source, paths: Mapping[str, Path]) -> None:
    """The arrays by the names of their vectors, all in one pass over the run."""
    with contextlib.ExitStack() as closed:
        files = {name: closed.enter_context(path.open("wb")) for name, path in paths.items()}
        for name, file in files.items():  # not open_memmap, which a full disk kills without a word
            shape = (source.rows, source.dims[name])
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for collection, index in source.each_shard():
            for name, file in files.items():
                file.write(np.ascontiguousarray(source.vectors(name, collection, index), "<f4").data)


def _read(folder: Path, arrays: Mapping[str, str], keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
    rows = row_numbers(folder / IDS, keys)
    opened = {name: np.load(folder / file, mmap_mode="r") for name, file in arrays.items()}
    return {key: {name: array[row] for name, array in opened.items()} for key, row in rows.items()}
