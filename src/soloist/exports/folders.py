"""Folders of files that an export owns: a marker says whose they are and which of them are finished.

While the marker does not say that it is finished, files of two exports may lie beside each other: the same export again
writes again those that are not known to be whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from soloist.errors import ExportError, ExportPathError
from soloist.exported import MARKERS
from soloist.exports.locks import LOCK, exclusive
from soloist.exports.markers import File, Marker, is_where_it_belongs, read_marker, write_marker
from soloist.exports.rows import Source
from soloist.exports.target import Target
from soloist.stores.atomic import atomic_path, disk_errors, is_temporary, make_folder, sync_file
from soloist.stores.manifest import file_sha256

_NO_COLUMNS = pa.schema([])  # of files that are not Parquet, or that are not there yet


@contextlib.contextmanager
def export_folder(source: Source, target: Target, kind: str, *, several: bool = True) -> Iterator[ExportFolder]:
    """The folder that one kind of export of one run writes, held for it; `several` vectors a row it has or one.

    Raises:
        ExportError: it has files that no export of this kind has written, or those of another run that are not taken
            over, or vectors or collections that this export would take away; or another export is at work in it.
    """
    path = target.folder
    if path.exists() and not path.is_dir():
        raise ExportPathError(f"{path} is a file: choose a folder for the export to {kind}")
    with disk_errors(path):
        make_folder(path)
    _there(source, target, kind, several)  # before a file of ours is in it
    with exclusive(path / LOCK, str(path)):
        yield ExportFolder(path, kind, source, _there(source, target, kind, several))


class ExportFolder:
    """A folder that is held for an export, opened with `export_folder`."""

    def __init__(self, path: Path, kind: str, source: Source, there: Marker | None) -> None:
        self.path = path
        self._vectors = source.names
        self._collections = source.collections
        self._marker = Marker(to=kind, run=source.run, files=there.files if there is not None else {})
        self._clean()
        if there is None:
            self._write(self._marker)
        elif there.run == source.run:
            self._marker = there

    def _clean(self) -> None:
        """Remove what a killed export has left half-written."""
        with disk_errors(self.path):
            for temp in list(self.path.iterdir()):
                if is_temporary(temp.name) and temp.is_file():
                    temp.unlink()

    @property
    def files(self) -> Mapping[str, File]:
        """The files of the last export."""
        return self._marker.files

    def has(self, name: str, of: str) -> bool:
        """Whether a file is there, whole, and of what this digest stands for."""
        known, path = self.files.get(name), self.path / name
        if known is None or known.of != of or not known.sha256 or not path.is_file():
            return False
        with contextlib.suppress(OSError):  # which cannot be read: it is written again
            return file_sha256(path) == known.sha256
        return False

    @contextlib.contextmanager
    def replacing(self, name: str, of: str, schema: pa.Schema) -> Iterator[Path]:
        """A path to write to, which becomes the Parquet file of this name with these columns; the folder is not
        finished until `finish`.
        """
        self._begin([name], schema)
        with atomic_path(self.path / name) as temp, disk_errors(self.path / name):
            yield temp
            file = File(of=of, sha256=file_sha256(temp))
        # It is on the disk with the next: a kill before that costs this file once more.
        self._marker = dataclasses.replace(self._marker, files={**self.files, name: file})

    @contextlib.contextmanager
    def switching(self) -> Iterator[Callable[[str], Path]]:
        """Paths to write to, by the names of the files that they become, all together, when the body has ended."""
        temps: dict[str, Path] = {}
        with contextlib.ExitStack() as renamed:

            def path_of(name: str) -> Path:
                temps[name] = renamed.enter_context(atomic_path(self.path / name))
                return temps[name]

            with disk_errors(self.path):
                yield path_of
                for temp in temps.values():
                    sync_file(temp)
            self._begin(temps)
        self._marker = dataclasses.replace(self._marker, files={**self.files, **dict.fromkeys(temps, File("all rows"))})
        self.finish(temps)

    def finish(self, files: Iterable[str], schema: pa.Schema = _NO_COLUMNS) -> None:
        """Say that the folder is finished and has these files, with these columns where they are Parquet, and remove
        others of the export before.
        """
        files = list(files)
        gone = [name for name in self.files if name not in files]
        if gone:
            self._begin(gone, schema)
        with disk_errors(self.path):
            for name in gone:
                (self.path / name).unlink(missing_ok=True)
        done = dataclasses.replace(
            self._marker, finished=True, vectors=self._vectors, collections=self._collections,
            files={name: self.files[name] for name in files},
        )  # fmt: skip
        if done != self._marker or not is_where_it_belongs(self.path, done.to):
            self._write(done, schema)

    def _begin(self, names: Iterable[str], schema: pa.Schema = _NO_COLUMNS) -> None:
        """Say that these files are not to be believed.

        Raises:
            ExportError: one is there that no export wrote.
        """
        names = list(names)
        for name in names:
            if name not in self.files and os.path.lexists(self.path / name):
                raise ExportError(
                    f"{self.path} has a file {name} that no export wrote: move it away, or choose another --out"
                )
        self._write(
            dataclasses.replace(
                self._marker,
                finished=False,
                vectors=tuple(dict.fromkeys([*self._marker.vectors, *self._vectors])),
                collections=tuple(dict.fromkeys([*self._marker.collections, *self._collections])),
                files={**self.files, **dict.fromkeys(names, File(""))},
            ),
            schema,
        )

    def _write(self, marker: Marker, schema: pa.Schema = _NO_COLUMNS) -> None:
        self._marker = marker
        write_marker(self.path, marker, schema)


def _there(source: Source, target: Target, kind: str, several: bool) -> Marker | None:
    """What the folder has of an export before, if that is this run's or taken over; nothing is changed."""
    path = target.folder
    with disk_errors(path):
        names = {entry.name for entry in path.iterdir()} - {LOCK}
    there = read_marker(path)
    own = tuple(f".{name}." for name in MARKERS)  # of a first export that was killed before its marker was there
    if (there is None or there.to != kind) and not all(is_temporary(name) and name.startswith(own) for name in names):
        raise ExportError(f"{path} has files that no export to {kind} wrote: choose another folder, or empty it")
    if there is None:
        return None
    if there.run != source.run:
        require_taken_over(str(path), target.take_over)
    else:
        require_vectors(str(path), there.vectors, source, several=several)
        require_collections(str(path), there.collections, source)
    return there


def require_taken_over(target: str, take_over: bool) -> None:
    """Refuse files of another run's export that are not taken over.

    Raises:
        ExportError: they are not.
    """
    if not take_over:
        raise ExportError(
            f"{target} has what another run exported: choose another --out, or give --take-over, which replaces it"
        )


def require_vectors(target: str, there: Iterable[str], source: Source, *, several: bool = True) -> None:
    """Refuse to write files again without vectors that they have and the run has too.

    Raises:
        ExportError: some would be lost.
    """
    lost = [name for name in there if name in source.others]
    if lost:
        remedy = "export all with --vectors all, or choose" if several else "choose"
        raise ExportError(
            f"{target} has vectors of {lost[0]}, which an export of {', '.join(source.names)} would take away: "
            f"{remedy} another --out"
        )


def require_collections(target: str, there: Iterable[str], source: Source) -> None:
    """Refuse to write files again without collections that they have and the run has too.

    Raises:
        ExportError: some would be lost.
    """
    lost = [name for name in there if name in source.other_collections]
    if lost:
        raise ExportError(
            f"{target} has collection {lost[0]}, which an export of {', '.join(source.collections)} would take away: "
            "export all without --collections, or choose another --out"
        )
