"""NumPy arrays: one `.npy` of all rows for each name of vectors, and `ids.jsonl` with a line for each row.

Sparse vectors and words are CSR matrices in `.npz` files; the columns of words are the lines of a file of terms.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.exports.csr_files import mapped_csr, write_csr
from soloist.exports.folders import ExportFolder, export_folder
from soloist.exports.members import WHAT, Entries, entries_of
from soloist.exports.readme import readme
from soloist.exports.report import ExportReport, Found, compare
from soloist.exports.rows import Source, key_of
from soloist.exports.target import Target
from soloist.jsontext import json_text
from soloist.ragged import RaggedRows, TermRows
from soloist.stores import folder_name
from soloist.stores.atomic import disk_errors

IDS = "ids.jsonl"
README = "README.md"
_LOADING = """\
FOLDER = {folder!r}
with open(f"{{FOLDER}}/ids.jsonl", encoding="utf-8") as lines:
    ids = [(row["collection"], row["id"]) for row in map(json.loads, lines)]
dense = {{name: np.load(f"{{FOLDER}}/{{file}}") for name, file in {dense!r}.items()}}
sparse = {{name: scipy.sparse.load_npz(f"{{FOLDER}}/{{file}}") for name, file in {sparse!r}.items()}}
counts = {{name: scipy.sparse.load_npz(f"{{FOLDER}}/{{file}}") for name, file in {words!r}.items()}}
terms = {{}}
for name, file in {terms!r}.items():
    with open(f"{{FOLDER}}/{{file}}", encoding="utf-8") as lines:
        terms[name] = [line[:-1] for line in lines]
"""
_KEY = re.compile(rb'\{"key": ?"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')


def export(source: Source, target: Target) -> ExportReport:
    """Write all arrays, in the order of the run, and read a sample back."""
    with export_folder(source, target, "numpy") as folder:
        return _filled(folder, source)


def _filled(folder: ExportFolder, source: Source) -> ExportReport:
    arrays = {name: f"{folder_name(name)}.npy" for name in source.dims}
    matrices = {name: f"{folder_name(name)}.npz" for name in source.ragged}
    deleted = gone_count(folder.path / IDS, source)
    with folder.switching() as path_of:
        _write(source, {name: path_of(file) for name, file in arrays.items()})
        for name, file in matrices.items():
            _write_matrix(source, name, path_of(file), path_of)
        write_ids(source, path_of(IDS))
        if source.ragged:
            path_of(README).write_text(_readme(source, folder.path, {**arrays, **matrices}), encoding="utf-8")
    count = row_count(folder.path / IDS)
    files = {**arrays, **matrices}
    return ExportReport(
        target=str(folder.path), rows=source.rows, written=source.rows, unchanged=0, deleted=deleted,
        compared=compare(source, str(folder.path), count, lambda keys: _read(folder.path, source, files, keys)),
        vectors=files,
    )  # fmt: skip


def terms_file(name: str) -> str:
    """The file of the terms of a member with words: the term of column 0 is its first line."""
    return f"{folder_name(name)}.terms.txt"


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


def _write_matrix(source: Source, name: str, path: Path, path_of: Callable[[str], Path]) -> None:
    """The matrix of a member, and its terms if it has words."""
    member = source.ragged[name]
    if member.kind == "sparse":
        rows = (source.entries(name, *at) for at in source.shards)
        write_csr(path, (each for each in rows if isinstance(each, RaggedRows)), member.dim or 0, np.dtype("<f4"))
        return
    terms = sorted({term for rows in _terms(source, name) for term in rows.vocabulary})
    with path_of(terms_file(name)).open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{term}\n" for term in terms)  # a term has no character that is not part of a word
    columns = {term: column for column, term in enumerate(terms)}
    write_csr(path, (_numbered(rows, columns) for rows in _terms(source, name)), len(terms), np.dtype("<i4"))


def _terms(source: Source, name: str) -> Iterator[TermRows]:
    """The words of each shard."""
    for at in source.shards:
        rows = source.entries(name, *at)
        assert isinstance(rows, TermRows)
        yield rows


def _numbered(rows: TermRows, columns: Mapping[str, int]) -> RaggedRows:
    """The words of a shard by the columns of their terms: in ascending order, as both vocabularies are sorted."""
    keys = np.array([columns[term] for term in rows.vocabulary], np.uint32)
    return RaggedRows(starts=rows.rows.starts, keys=keys[rows.rows.keys], values=rows.rows.values)


def _read(folder: Path, source: Source, files: Mapping[str, str], keys: Sequence[str]) -> Found:
    numbers = row_numbers(folder / IDS, keys)
    found: dict[str, dict[str, Vectors | Entries]] = {key: {} for key in numbers}
    for name in source.dims:
        array = np.load(folder / files[name], mmap_mode="r")
        for key, number in numbers.items():
            found[key][name] = array[number]
    for name in source.ragged:
        entries = _entries(folder, source, name, files[name], list(numbers.values()))
        for key, row in zip(numbers, entries, strict=True):
            found[key][name] = row
    return found


def _entries(folder: Path, source: Source, name: str, file: str, numbers: Sequence[int]) -> list[dict[Any, float]]:
    rows = mapped_csr(folder / file).take(numbers)
    entries = entries_of(rows)
    if source.ragged[name].kind == "sparse":
        return entries
    terms = (folder / terms_file(name)).read_text(encoding="utf-8").split("\n")
    return [{terms[column]: count for column, count in row.items()} for row in entries]


def _readme(source: Source, folder: Path, files: Mapping[str, str]) -> str:
    of_kind = {kind: [name for name, member in source.ragged.items() if member.kind == kind] for kind in WHAT}
    loading = _LOADING.format(
        folder=str(folder.absolute()),
        dense={name: files[name] for name in source.dims},
        sparse={name: files[name] for name in of_kind["sparse"]},
        words={name: files[name] for name in of_kind["lexical"]},
        terms={name: terms_file(name) for name in of_kind["lexical"]},
    )
    return readme(
        source,
        title="A run of soloist as arrays",
        files="""\
- `ids.jsonl` has collection and id of each row, in the order of the rows of every other file.
- A `.npy` file has dense vectors, a row for each chunk.
- A `.npz` file is a CSR matrix of SciPy, a row for each chunk.
- The columns of a sparse model are its dimensions.
- The columns of words are terms, and the numbers are counts. The `.terms.txt` file has the terms, one a line, in order.
""",
        loading=loading,
    )
