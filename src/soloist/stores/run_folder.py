"""The folder of one run, and the only way to write or read a file of it; `layout` says where each of them lies.

Knows files. Knows nothing of models, of what a vector means, or of what run.json says.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from soloist.arrays import Vectors
from soloist.digests import shard_digest, text_digest
from soloist.errors import OutputError
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors, is_temporary, make_folder, sync_folder
from soloist.stores.folder_lock import held, is_held
from soloist.stores.layout import FIT, IDENTITY, STATE, Layout
from soloist.stores.manifest import NAME, FileRecord, Kind, Manifest, file_sha256
from soloist.stores.skipped import SkippedWriter
from soloist.stores.summary import made_by
from soloist.stores.tables import (
    PLACE_COLUMNS,
    chunk_table,
    read_errors,
    read_table,
    table_chunks,
    table_digests,
    table_places,
    table_texts,
    table_vectors,
    tally_of,
    vector_table,
    write_chunk_file,
    write_vector_file,
)
from soloist.types import Chunk, Shard, TokenTally, VectorDType

Used = TypeVar("Used")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, each written once and whole; names of collections and models may be any text.

    `write_*` raise OutputError where the disk does not take the file, `read_*` where the file is
    missing or damaged. Vectors are given and read as (n, dim) float32, whatever they are stored as.

        run = RunFolder.create(Path("out"))
        run.write_chunks("notes", 0, [Chunk(id="a", text="hello")])
        run.write_vectors("notes", "bge-m3", 0, ["a"], np.ones((1, 4), np.float32))
        ids, vectors = run.read_vectors("notes", "bge-m3", 0)
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """The folder of a run: a new one, with its missing parents, or one that a run has begun before.

        Raises:
            OutputError: there is a file, a folder with other files, or it cannot be written.
        """
        with disk_errors(path):
            if path.exists() and not path.is_dir():
                raise OutputError(f"{path} is a file: choose a new folder for the run")
            make_folder(path)
            if any(path.iterdir()) and not Layout(path).is_run():
                raise OutputError(f"{path} is not empty and no run of soloist: choose a new folder, or empty it")
            Layout(path).require_no_links()
            with tempfile.TemporaryFile(dir=path):  # found out now, not after the first pass
                pass
        return cls(path)

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """The folder of a run, finished or not.

        Raises:
            OutputError: there is no folder, or it is none of a run.
        """
        remedy = "give the folder that soloist embed wrote, its --out"
        if not path.exists():
            raise OutputError(f"{path} does not exist: {remedy}")
        if not path.is_dir():
            raise OutputError(f"{path} is a file and no run folder: {remedy}")
        if not (path / "run.json").is_file() and not Layout(path).is_run():
            raise OutputError(f"{path} is not a run folder, it has neither {NAME} nor {STATE}: {remedy}")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that is finished.

        Raises:
            OutputError: there is none.
        """
        folder = cls.at(path)
        if not folder.is_finished:
            remedy = (
                "it is at work, wait until it ends" if folder.is_locked() else "run the command that began it again"
            )
            raise OutputError(f"{path} has no run.json, the run is not finished: {remedy}")
        if folder.is_new:
            raise OutputError(f"{path} has no {NAME}: an earlier version wrote it, run again into a new folder")
        return folder

    @property
    def _layout(self) -> Layout:
        return Layout(self.path)

    @property
    def manifest(self) -> Manifest:
        """What is finished."""
        return Manifest(self.path)

    @property
    def incoming(self) -> RunFolder:
        """Where chunks are written until all of them are read."""
        return RunFolder(self.path / ".incoming")

    @property
    def previous(self) -> Path:
        """Where the vectors of chunks lie that have changed since, each file under its sha256."""
        return self.path / ".previous"

    @property
    def is_finished(self) -> bool:
        """Whether a run came to its end in it, and no later one has begun to change it."""
        return (self.path / "run.json").is_file()

    @property
    def is_new(self) -> bool:
        """Whether no file of it was ever finished."""
        return not self.manifest.exists()

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for one run.

        Raises:
            OutputError: another run holds it.
        """
        return held(self.path)

    def is_locked(self) -> bool:
        """Whether a run is at work in it now."""
        return is_held(self.path)

    def reopen(self) -> None:
        """Take back that the run is finished, because its files are about to change.

        Raises:
            OutputError: run.json cannot be removed.
        """
        with disk_errors(self.path):
            (self.path / "run.json").unlink(missing_ok=True)
            sync_folder(self.path)

    def finish(self, summary: Any) -> None:
        """Say that the run is finished: the manifest in the order of its files, what was set aside gone, run.json.

        A run.json that is there says what was done for the files as they are, and stays.
        """
        self.manifest.replace(self.manifest.read().values())
        with disk_errors(self.path):
            if self.previous.is_dir():
                shutil.rmtree(self.previous)
            (self.path / STATE).unlink(missing_ok=True)
        self._draw_identity()
        if made_by(self._summary()) != made_by(json.loads(json_text(summary))):
            self.write_json("run.json", summary)

    def identity(self) -> str:
        """What tells the run from every other: 32 hex digits, drawn when it is first finished and kept from then on.

        A run that an earlier version finished has none yet, and gets it now.

        Raises:
            OutputError: it cannot be read, or it cannot be written now.
        """
        if not (self.path / IDENTITY).is_file():
            with self.locked():
                self._draw_identity()
        return self.read_json_as(IDENTITY, _identity)

    def _draw_identity(self) -> None:
        try:
            self.read_json_as(IDENTITY, _identity)
        except OutputError:  # missing, or damaged
            self.write_json(IDENTITY, {"id": uuid.uuid4().hex})

    def _summary(self) -> Any:
        """What run.json says; None where it is not there or no JSON."""
        try:
            return self.read_json("run.json")
        except OutputError:
            return None

    def chunks_file(self, collection: str, index: int) -> str:
        """The path of a file of chunks inside the folder, as the manifest has it."""
        return self._layout.inside(self._layout.chunks(collection, index))

    def vectors_file(self, collection: str, model: str, index: int) -> str:
        """The path of a file of vectors inside the folder, as the manifest has it."""
        return self._layout.inside(self._layout.vectors(collection, model, index))

    def fused_file(self, collection: str, index: int) -> str:
        """The path of a file of fused vectors inside the folder, as the manifest has it."""
        return self._layout.inside(self._layout.fused(collection, index))

    def clean(self) -> None:
        """Remove what a killed run has left: half-written files, and chunks that it had not taken over."""
        with disk_errors(self.path):
            if self.incoming.path.is_dir():
                shutil.rmtree(self.incoming.path)
            for folder, _, names in os.walk(self.path):
                for name in names:
                    if is_temporary(name):
                        Path(folder, name).unlink()

    def discard(self) -> None:
        """Remove what a run has written before its first chunks were taken over, and nothing else.

        Raises:
            OutputError: something in it cannot be removed.
        """
        try:
            if self.incoming.path.is_dir():
                shutil.rmtree(self.incoming.path)
            for name in ("events.jsonl", STATE, ".lock"):
                (self.path / name).unlink(missing_ok=True)
        except OSError as exc:
            raise OutputError(f"{self.path} cannot be cleared: {exc.strerror}: remove it by hand") from exc

    def shards(self, collection: str) -> tuple[int, ...]:
        """The indices of the collection's chunk shards, in order; empty where it has none."""
        records = self.manifest.read().values()
        return tuple(sorted(each.shard for each in records if (each.kind, each.collection) == ("chunks", collection)))

    def write_chunks(self, collection: str, index: int, chunks: Sequence[Chunk]) -> str:
        """Write one shard of chunks; the digest of their ids and texts.

        Raises:
            InputError: a chunk that no file can hold, e.g. a lone surrogate in its text.
        """
        path, table = self._layout.chunks(collection, index), chunk_table(chunks)
        self.require_inside(path)
        write_chunk_file(path, table)
        digests = [text_digest(chunk.text) for chunk in chunks]
        content = shard_digest([chunk.id for chunk in chunks], digests)
        self._record(path, "chunks", len(chunks), collection=collection, shard=index, content=content)
        return content

    def read_shard(self, collection: str, index: int) -> Shard:
        """The ids and texts of a shard; the metadata stay on the disk."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            table = read_table(path, columns=("id", "text"))
            ids, texts = (tuple(table_texts(table, name)) for name in ("id", "text"))
        return Shard(collection=collection, index=index, ids=ids, texts=texts)

    def read_ids(self, collection: str, index: int) -> list[str]:
        """The ids of a shard."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            return table_texts(read_table(path, columns=("id",)), "id")

    def read_places(self, collection: str, index: int) -> list[tuple[str, str | None, int | None]]:
        """The ids of a shard, each with the file that it was read from and its index there, as in `Chunk`."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            table = read_table(path, columns=("id", *PLACE_COLUMNS))  # of these, those that there are
            return list(zip(table_texts(table, "id"), *table_places(table), strict=True))

    def read_chunks(self, collection: str, index: int, rows: Sequence[int] | None = None) -> list[Chunk]:
        """The chunks of a shard with their metadata, or those of some rows."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            table = read_table(path)
            return table_chunks(table if rows is None else table.take(list(rows)))

    def write_vectors(
        self,
        collection: str,
        model: str,
        index: int,
        ids: Sequence[str],
        vectors: Vectors,
        digests: Sequence[bytes] | None = None,
        fingerprint: str = "",
        counts: np.ndarray[Any, np.dtype[np.int32]] | None = None,
        vector_dtype: VectorDType = "float32",
    ) -> TokenTally:
        """Write one model's vectors of one shard; with the digests of the texts, so that later runs can take them over,
        and counts of their tokens, (rows, 2) as `vector_table` has them, whose tally this gives. In float16 they are
        rounded to the nearest.

        Raises:
            ValueError: another dtype than float32, NaN or infinity, or another number of ids.
        """
        path = self._layout.vectors(collection, model, index)
        table = vector_table(model, ids, vectors, digests, fingerprint, counts, vector_dtype)
        tally = tally_of(counts) if counts is not None else None
        self.require_inside(path)
        write_vector_file(path, table)
        self._record(
            path, "vectors", len(ids), collection=collection, shard=index, model=model, fingerprint=fingerprint,
            content=shard_digest(ids, digests) if digests is not None else "", vector_dtype=vector_dtype,
            **(asdict(tally) if tally is not None else {}),
        )  # fmt: skip
        return tally or TokenTally()

    def read_vectors(self, collection: str, model: str, index: int) -> tuple[list[str], Vectors]:
        """The ids and one model's vectors of a shard; the array is read-only."""
        path = self._layout.vectors(collection, model, index)
        with read_errors(path):
            return table_vectors(read_table(path))

    def read_digests(self, collection: str, model: str, index: int) -> list[bytes] | None:
        """The digests of the texts that the vectors of a shard are of; None where the file has none."""
        path = self._layout.vectors(collection, model, index)
        with read_errors(path):
            return table_digests(read_table(path, columns=("text_digest",)))

    def write_fused(
        self,
        collection: str,
        index: int,
        ids: Sequence[str],
        vectors: Vectors,
        content: str = "",
        fingerprint: str = "",
        vector_dtype: VectorDType = "float32",
    ) -> None:
        """Write the fused vectors of one shard; rounded, and with the same errors, as in `write_vectors`."""
        path = self._layout.fused(collection, index)
        table = vector_table("fused", ids, vectors, None, fingerprint, vector_dtype=vector_dtype)
        self.require_inside(path)
        write_vector_file(path, table)
        self._record(
            path, "fused", len(ids), collection=collection, shard=index, content=content, fingerprint=fingerprint,
            vector_dtype=vector_dtype,
        )  # fmt: skip

    def read_fused(self, collection: str, index: int) -> tuple[list[str], Vectors]:
        """The ids and fused vectors of a shard; the array is read-only."""
        path = self._layout.fused(collection, index)
        with read_errors(path):
            return table_vectors(read_table(path))

    def write_fit(self, matrices: Sequence[Vectors], fingerprint: str) -> None:
        """Write the matrices of a fusion that was fitted to the run, (kept dim, fused dim) float32 a model."""
        path = self.path / FIT
        content = save({f"{number:03d}": np.ascontiguousarray(matrix) for number, matrix in enumerate(matrices)})
        self.require_inside(path)
        with atomic_path(path) as temp, disk_errors(path):
            temp.write_bytes(content)
        self._record(path, "fit", 0, fingerprint=fingerprint)

    def read_fit(self) -> tuple[Vectors, ...]:
        """The matrices that `write_fit` wrote."""
        path = self.path / FIT
        with read_errors(path):
            try:
                found = load(path.read_bytes())
            except FileNotFoundError as exc:
                raise OutputError(
                    f"{path} is missing: run the command that made the run again, which repairs it"
                ) from exc
            except SafetensorError as exc:
                raise ValueError(str(exc)) from exc
        return tuple(found[name] for name in sorted(found))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, e.g. `run.json`.

        Raises:
            ValueError: a name that is not a plain `*.json`, or NaN or infinity in the value.
            TypeError: a value that JSON does not have.
        """
        path, text = self._layout.json(name), json_text(value, indent=2)
        with atomic_path(path) as temp, disk_errors(path):
            temp.write_text(text + "\n", encoding="utf-8", newline="\n")

    def read_json(self, name: str) -> Any:
        """The value of a JSON file of the run."""
        return self.read_json_as(name, lambda value: value)

    def read_json_as(self, name: str, use: Callable[[Any], Used]) -> Used:
        """What `use` makes of the value of a JSON file of the run.

        Raises:
            OutputError: the file cannot be read, or its value is another than `use` takes.
        """
        path = self._layout.json(name)
        try:
            return use(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
            if isinstance(exc, (OSError, json.JSONDecodeError)):
                reason = f"cannot be read ({exc.strerror if isinstance(exc, OSError) else exc})"
            else:
                reason = f"does not hold what a run writes there ({type(exc).__name__}: {exc})"
            raise OutputError(
                f"{path} {reason}: run the command that wrote it again, and it writes the file again"
            ) from exc

    @contextmanager
    def skipped(self, *, more: bool = False) -> Iterator[SkippedWriter]:
        """Write skipped.jsonl, with `more` behind the rows that it has: it appears when the body ends well, also where
        nothing was appended.
        """
        path = self.path / "skipped.jsonl"
        with atomic_path(path) as temp:
            with disk_errors(path):
                if more:
                    shutil.copyfile(path, temp)
                file = temp.open("a", encoding="utf-8", newline="\n")
            writer = SkippedWriter(file, path)
            try:
                yield writer
            finally:
                with disk_errors(path):
                    file.close()
        self._record(path, "skipped", 0)

    def _record(self, path: Path, kind: Kind, rows: int, **what: Any) -> None:
        with read_errors(path):
            size, sha256 = path.stat().st_size, file_sha256(path)
        inside = self._layout.inside(path)
        self.manifest.append(FileRecord(file=inside, kind=kind, rows=rows, bytes=size, sha256=sha256, **what))

    def require_inside(self, path: Path) -> None:
        """Refuse a path that a symbolic link leads out of the folder.

        Raises:
            OutputError: one does.
        """
        self._layout.require_inside(path)


def _identity(value: Any) -> str:
    return uuid.UUID(hex=value["id"]).hex
