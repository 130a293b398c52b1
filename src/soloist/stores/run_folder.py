"""The folder of one run: where each file lies, and the only way to write or read one.

    RUN/run.json  RUN/skipped.jsonl  RUN/events.jsonl (the event sink's own)
    RUN/<collection>/chunks/part-00000.parquet
    RUN/<collection>/vectors/<model>/part-00000.parquet
    RUN/<collection>/fused/part-00000.parquet

Knows layout and files. Knows nothing of models, of what a vector means, or of what run.json says.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from soloist.errors import OutputError
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors, make_folder
from soloist.stores.names import folder_name
from soloist.stores.tables import (
    chunk_table,
    read_table,
    table_chunks,
    table_vectors,
    vector_table,
    write_chunk_file,
    write_vector_file,
)
from soloist.types import Chunk, Shard, SkippedInput

Vectors = np.ndarray[Any, np.dtype[np.float32]]

_PART = re.compile(r"part-(\d{5,})\.parquet")
_JSON_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.json")


@dataclass(frozen=True, slots=True)
class SkippedWriter:
    """Writes what was left out, one JSON object a line; made by `RunFolder.skipped`."""

    file: IO[str]
    path: Path

    def append(self, skipped: SkippedInput) -> None:
        """Write one row: collection, file, index, reason, detail.

        Raises:
            OutputError: the disk does not take it.
        """
        row = {
            "collection": skipped.collection,
            "file": str(skipped.file),
            "index": skipped.index,
            "reason": skipped.reason,
            "detail": skipped.detail,
        }
        with disk_errors(self.path):
            self.file.write(json_text(row) + "\n")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, each written once and whole; names of collections and models may be any text.

    `write_*` raise OutputError where the disk does not take the file, `read_*` where the file is
    missing or damaged. Vectors are (n, dim) float32.

        run = RunFolder.create(Path("out"))
        run.write_chunks("notes", 0, [Chunk(id="a", text="hello")])
        run.write_vectors("notes", "bge-m3", 0, ["a"], np.ones((1, 4), np.float32))
        ids, vectors = run.read_vectors("notes", "bge-m3", 0)
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder of a new run, with its missing parents.

        Raises:
            OutputError: there is a file or a folder that is not empty, or it cannot be written.
        """
        with disk_errors(path):
            if path.exists() and not path.is_dir():
                raise OutputError(f"{path} is a file: choose a new folder for the run")
            make_folder(path)
            if any(path.iterdir()):
                raise OutputError(f"{path} is not empty{_leftover(path)}: choose a new folder for the run, or empty it")
            with tempfile.TemporaryFile(dir=path):  # found out now, not after the first pass
                pass
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that has been made before.

        Raises:
            OutputError: there is no run.json.
        """
        if not (path / "run.json").is_file():
            raise OutputError(f"{path} has no run.json: give the folder that a finished run wrote")
        return cls(path)

    def discard(self) -> None:
        """Remove all that the folder holds, so that the same path can be given to a new run.

        Raises:
            OutputError: something in it cannot be removed.
        """
        try:
            for entry in self.path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as exc:
            raise OutputError(f"{self.path} cannot be cleared: {exc.strerror}: remove it by hand") from exc

    def shards(self, collection: str) -> tuple[int, ...]:
        """The indices of the collection's chunk shards, in order; empty where it has none."""
        folder = self._collection(collection) / "chunks"
        if not folder.is_dir():
            return ()
        return tuple(sorted(int(m[1]) for entry in folder.iterdir() if (m := _PART.fullmatch(entry.name))))

    def write_chunks(self, collection: str, index: int, chunks: Sequence[Chunk]) -> None:
        """Write one shard of chunks.

        Raises:
            InputError: a chunk that no file can hold, e.g. a lone surrogate in its text.
        """
        write_chunk_file(self._chunks(collection, index), chunk_table(chunks))

    def read_shard(self, collection: str, index: int) -> Shard:
        """The ids and texts of a shard; the metadata stay on the disk."""
        table = read_table(self._chunks(collection, index), columns=("id", "text"))
        ids, texts = (tuple(table[name].to_pylist()) for name in ("id", "text"))
        return Shard(collection=collection, index=index, ids=ids, texts=texts)

    def read_chunks(self, collection: str, index: int) -> list[Chunk]:
        """The chunks of a shard with their metadata."""
        return table_chunks(read_table(self._chunks(collection, index)))

    def write_vectors(self, collection: str, model: str, index: int, ids: Sequence[str], vectors: Vectors) -> None:
        """Write one model's vectors of one shard.

        Raises:
            ValueError: another dtype than float32, NaN or infinity, or another number of ids.
        """
        write_vector_file(self._vectors(collection, model, index), vector_table(model, ids, vectors))

    def read_vectors(self, collection: str, model: str, index: int) -> tuple[list[str], Vectors]:
        """The ids and one model's vectors of a shard; the array is read-only."""
        return table_vectors(read_table(self._vectors(collection, model, index)))

    def write_fused(self, collection: str, index: int, ids: Sequence[str], vectors: Vectors) -> None:
        """Write the fused vectors of one shard; the same errors as `write_vectors`."""
        write_vector_file(self._fused(collection, index), vector_table("fused", ids, vectors))

    def read_fused(self, collection: str, index: int) -> tuple[list[str], Vectors]:
        """The ids and fused vectors of a shard; the array is read-only."""
        return table_vectors(read_table(self._fused(collection, index)))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, e.g. `run.json`.

        Raises:
            ValueError: a name that is not a plain `*.json`, or NaN or infinity in the value.
            TypeError: a value that JSON does not have.
        """
        path, text = self._json(name), json_text(value, indent=2)
        with atomic_path(path) as temp, disk_errors(path):
            temp.write_text(text + "\n", encoding="utf-8", newline="\n")

    def read_json(self, name: str) -> Any:
        """The value of a JSON file of the run."""
        path = self._json(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise OutputError(f"{path} cannot be read: {exc}: run again into a new folder") from exc

    @contextmanager
    def skipped(self) -> Iterator[SkippedWriter]:
        """Write skipped.jsonl: it appears when the body ends well, also where nothing was appended."""
        path = self.path / "skipped.jsonl"
        with atomic_path(path) as temp:
            with disk_errors(path):
                file = temp.open("w", encoding="utf-8", newline="\n")
            try:
                yield SkippedWriter(file, path)
            finally:
                with disk_errors(path):
                    file.close()

    def _collection(self, collection: str) -> Path:
        return self.path / folder_name(collection)

    def _chunks(self, collection: str, index: int) -> Path:
        return self._collection(collection) / "chunks" / _part(index)

    def _vectors(self, collection: str, model: str, index: int) -> Path:
        return self._collection(collection) / "vectors" / folder_name(model) / _part(index)

    def _fused(self, collection: str, index: int) -> Path:
        return self._collection(collection) / "fused" / _part(index)

    def _json(self, name: str) -> Path:
        if not _JSON_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no plain name of a JSON file: give one like 'run.json'")
        return self.path / name


def _leftover(path: Path) -> str:
    unfinished = (path / "events.jsonl").is_file() and not (path / "run.json").exists()
    return ", it looks like an unfinished run of soloist (events.jsonl without run.json)" if unfinished else ""


def _part(index: int) -> str:
    if index < 0:
        raise ValueError(f"shard index {index} is negative: shards count from 0")
    return f"part-{index:05d}.parquet"
