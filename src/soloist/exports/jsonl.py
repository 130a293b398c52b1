"""JSON Lines: an object for each row, with its text, its metadata as they are, and its vectors by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ExportError, ExportPathError
from soloist.exports.asking import write_beside
from soloist.exports.folders import require_collections, require_taken_over, require_vectors
from soloist.exports.locks import exclusive
from soloist.exports.members import Entries, LongRows
from soloist.exports.numpy_files import gone_count, row_count
from soloist.exports.readme import LISTS, beside, readme
from soloist.exports.report import ExportReport, Found, compare
from soloist.exports.rows import Rows, Source, key_of
from soloist.exports.target import Target
from soloist.jsontext import json_text
from soloist.ragged import TermRows
from soloist.stores.atomic import atomic_path, disk_errors, is_temporary

_BEGINNING = b'{"key": "'
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_FIRST = b", ?".join(b'"%b": ?%b' % (name, _TEXT) for name in (b"key", b"run", b"collection", b"id"))
_HEAD = re.compile(rb'\{%b, ?(?="(?:source_file|text)":)' % _FIRST)  # rows of earlier versions do not have a file

_LOADING = """\
with open({file!r}, encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
ids = [(row["collection"], row["id"]) for row in rows]
dense = {{name: np.array([row["vectors"][name] for row in rows]) for name in {dense!r}}}


{lists}

def column(name, key):
    return [row["vectors"][name][key] for row in rows]


sparse, counts, terms = {{}}, {{}}, {{}}
for name, dim in {sparse!r}.items():
    sparse[name] = matrix(column(name, "indices"), column(name, "values"), dim)
for name in {words!r}:
    terms[name], columns = numbered(column(name, "terms"))
    counts[name] = matrix(columns, column(name, "counts"), len(terms[name]))
"""


def export(source: Source, target: Target) -> ExportReport:
    """Write the whole file, in the order of the run, and read a sample back."""
    path = target.folder
    if path.is_symlink():  # which stays, and what it names is written
        path = Path(os.path.realpath(path))
    if path.is_dir():
        raise ExportPathError(f"{path} is a folder: give --out the name of a file, such as {path / 'chunks.jsonl'}")
    if os.path.lexists(path) and not path.is_file():
        what = "a link to itself" if path.is_symlink() else "a device or a pipe"
        raise ExportError(f"{path} is not a file but {what}: give --out the name of a file")
    _require_ours(path, source, target.take_over)
    with exclusive(path.with_name(f".{path.name}.lock"), str(path)):
        _require_ours(path, source, target.take_over)
        return _filled(path, source, target.batch_rows)


def _filled(path: Path, source: Source, batch_rows: int) -> ExportReport:
    _clean(path)
    deleted = gone_count(path, source)
    with atomic_path(path) as temp, disk_errors(path), temp.open("w", encoding="utf-8", newline="\n") as file:
        for rows in source.batches(batch_rows):
            for row in range(len(rows)):
                file.write(json_text(_object(source.run, rows, row)) + "\n")
    notes = write_beside(beside(path), _readme(source, path) if source.ragged else None)
    return ExportReport(
        target=str(path), rows=source.rows, written=source.rows, unchanged=0, deleted=deleted,
        compared=compare(source, str(path), row_count(path), lambda keys: _read(path, keys)),
        vectors={name: f'vectors["{name}"]' for name in source.names}, notes=notes,
    )  # fmt: skip


def _require_ours(path: Path, source: Source, take_over: bool) -> None:
    """Refuse a file that no export of this run wrote: every line is a row of one.

    Raises:
        ExportError: it is somebody else's, or another run's that is not taken over, or cannot be read, or has vectors
            or collections that would be taken away.
    """
    if not path.exists():
        return
    runs: set[str] = set()
    collections: dict[str, None] = {}
    try:
        with path.open("rb") as lines:
            is_ours = lines.read(len(_BEGINNING)) in (_BEGINNING, b"")  # before a line of any length is read
            lines.seek(0)
            vectors = _vectors_of(lines.readline()) if is_ours else []
            lines.seek(0)
            for number, line in enumerate(lines if is_ours else [b""], 1):
                row = _head(line)
                if row is None:
                    which = "is a file" if number == 1 else f"has a line {number}"
                    raise ExportError(
                        f"{path} {which} that no export to jsonl wrote: choose another --out, or remove it"
                    )
                runs.add(row["run"])
                collections[row["collection"]] = None
    except OSError as exc:
        raise ExportError(f"{path} cannot be read ({exc.strerror}): choose another --out") from exc
    if runs - {source.run}:
        require_taken_over(str(path), take_over)
    else:
        require_vectors(str(path), vectors, source)
        require_collections(str(path), collections, source)


def _head(line: bytes) -> dict[str, Any] | None:
    """Key, run, collection and id of a row, whose vectors are not read; None where no export wrote the line."""
    found = _HEAD.match(line)
    if found is None or not line.endswith(b"}}\n"):
        return None
    try:
        row: dict[str, Any] = json.loads(found[0].rstrip(b", ") + b"}")
        return row if row["key"] == key_of(row["collection"], row["id"]) else None
    except (ValueError, LookupError):
        return None


def _vectors_of(line: bytes) -> list[str]:
    """The names of a row's vectors; none where the line is not a row."""
    try:
        return list(json.loads(line)["vectors"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return []


def _clean(path: Path) -> None:
    """Remove what a killed export to this file has left beside it."""
    if path.parent.is_dir():
        with disk_errors(path):
            for entry in path.parent.iterdir():
                if entry.name.startswith(f".{path.name}.") and is_temporary(entry.name):
                    entry.unlink()


def _object(run: str, rows: Rows, row: int) -> dict[str, Any]:
    chunk = rows.chunks[row]
    return {
        "key": rows.keys[row],
        "run": run,
        "collection": rows.collection,
        "id": chunk.id,
        "source_file": chunk.source_file,
        "source_index": chunk.source_index,
        "text": chunk.text,
        "metadata": dict(chunk.metadata),
        "vectors": {
            **{name: _decimals(vectors[row]) for name, vectors in rows.vectors.items()},
            **{name: _lists(entries, row) for name, entries in rows.ragged.items()},
        },
    }


def _decimals(numbers: Vectors) -> list[float]:
    """The shortest decimals that are this float32 again."""
    return [float(str(number)) for number in numbers]


def _lists(entries: LongRows, row: int) -> dict[str, Any]:
    """A row of sparse vectors or of words."""
    if isinstance(entries, TermRows):
        found = entries.terms(row)
        return {"terms": [term for term, _ in found], "counts": [count for _, count in found]}
    indices, values = entries.row(row)
    return {"indices": indices.tolist(), "values": _decimals(values)}


def _read(path: Path, keys: Sequence[str]) -> Found:
    wanted, found = set(keys), {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.split('"', 4)[3] in wanted:  # the key is its first value
                value = json.loads(line)
                found[value["key"]] = {name: _vector(kept) for name, kept in value["vectors"].items()}
    return found


def _vector(kept: Any) -> Vectors | Entries:
    if isinstance(kept, list):
        return np.array(kept, np.float32)
    keys, values = kept.values()
    return dict(zip(keys, values, strict=True))


def _readme(source: Source, path: Path) -> str:
    members = source.ragged
    loading = _LOADING.format(
        file=str(path.absolute()), dense=list(source.dims), lists=LISTS,
        sparse={name: member.dim for name, member in members.items() if member.kind == "sparse"},
        words=[name for name, member in members.items() if member.kind == "lexical"],
    )  # fmt: skip
    return readme(
        source,
        title="A run of soloist as JSON Lines",
        files="""\
The `vectors` of a line have, by name:

- a list of numbers where the vectors are dense;
- `indices` and `values` of a sparse vector;
- `terms` of the text, and `counts`, which say how often each is there.
""",
        loading=loading,
    )
