"""Folders of files that an export owns: a marker says whose they are and which of them are finished.

While the marker does not say that it is finished, files of two exports may lie beside each other: the same export again
writes those anew that are not known to be whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.errors import ExportError
from soloist.exports.locks import LOCK, exclusive
from soloist.exports.rows import Source
from soloist.exports.target import Target
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors, is_temporary, make_folder, sync_file
from soloist.stores.manifest import file_sha256

MARKER = "soloist-export.json"


@dataclass(frozen=True, slots=True)
class _File:
    """A file: the digest of what it is of, or none where it may be half of another export's, and that of its bytes
    where it is not written anew each time.
    """

    of: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marker:
    """What is in a folder: files, the kind and the run of the export, and the names of its vectors and collections."""

    to: str
    run: str | None = None  # of an earlier version, which did not say
    finished: bool = False
    vectors: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    files: Mapping[str, _File] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def export_folder(source: Source, target: Target, kind: str, *, several: bool = True) -> Iterator[ExportFolder]:
    """The folder that one kind of export of one run writes, held for it; `several` vectors a row it has or one.

    Raises:
        ExportError: it has files that no export of this kind has written, or those of another run that are not taken
            over, or vectors or collections that this export would take away; or another export is at work in it.
    """
    path = target.folder
    if path.exists() and not path.is_dir():
        raise ExportError(f"{path} is a file: choose a folder for the export to {kind}")
    with disk_errors(path):
        make_folder(path)
    _there(source, target, kind, several)  # before a file of ours is in it
    with exclusive(path / LOCK, str(path)):
        yield ExportFolder(path, kind, source, _there(source, target, kind, several))


class ExportFolder:
    """A folder that is held for an export, opened with `export_folder`."""

    def __init__(self, path: Path, kind: str, source: Source, there: _Marker | None) -> None:
        self.path = path
        self._vectors = tuple(source.dims)
        self._collections = source.collections
        self._marker = _Marker(to=kind, run=source.run, files=there.files if there is not None else {})
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
    def files(self) -> Mapping[str, _File]:
        """The files of the last export."""
        return self._marker.files

    def has(self, name: str, of: str) -> bool:
        """Whether a file is there, whole, and of what this digest stands for."""
        known, path = self.files.get(name), self.path / name
        if known is None or known.of != of or not known.sha256 or not path.is_file():
            return False
        with contextlib.suppress(OSError):  # which cannot be read: it is written anew
            return file_sha256(path) == known.sha256
        return False

    @contextlib.contextmanager
    def replacing(self, name: str, of: str) -> Iterator[Path]:
        """A path to write to, which becomes the file of this name; the folder is not finished until `finish`."""
        self._begin([name])
        with atomic_path(self.path / name) as temp, disk_errors(self.path / name):
            yield temp
            file = _File(of=of, sha256=file_sha256(temp))
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
        self._marker = dataclasses.replace(
            self._marker, files={**self.files, **dict.fromkeys(temps, _File("all rows"))}
        )
        self.finish(temps)

    def finish(self, files: Iterable[str]) -> None:
        """Say that the folder is finished and has these files, and remove others of the export before."""
        files = list(files)
        gone = [name for name in self.files if name not in files]
        if gone:
            self._begin(gone)
        with disk_errors(self.path):
            for name in gone:
                (self.path / name).unlink(missing_ok=True)
        done = dataclasses.replace(
            self._marker, finished=True, vectors=self._vectors, collections=self._collections,
            files={name: self.files[name] for name in files},
        )  # fmt: skip
        if done != self._marker:
            self._write(done)

    def _begin(self, names: Iterable[str]) -> None:
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
                files={**self.files, **dict.fromkeys(names, _File(""))},
            )
        )

    def _write(self, marker: _Marker) -> None:
        self._marker = marker
        with atomic_path(self.path / MARKER) as temp, disk_errors(self.path / MARKER):
            temp.write_text(json_text(dataclasses.asdict(marker), indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> _Marker | None:
    """The marker of a folder; None where there is none."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = {name: _File(**file) if isinstance(file, dict) else _File("") for name, file in known["files"].items()}
        if any(Path(name).name != name for name in files):  # no export wrote that, and they may be removed
            return None
        return _Marker(
            to=str(known["to"]), run=known.get("run"), finished=known.get("finished") is True,
            vectors=tuple(known.get("vectors", ())), collections=tuple(known.get("collections", ())), files=files,
        )  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _there(source: Source, target: Target, kind: str, several: bool) -> _Marker | None:
    """What the folder has of an export before, if that is this run's or taken over; nothing is changed."""
    path = target.folder
    with disk_errors(path):
        names = {entry.name for entry in path.iterdir()} - {LOCK}
    there = _read(path / MARKER)
    own = f".{MARKER}."  # of a first export that was killed before its marker was there
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
    """Refuse to write files anew without vectors that they have and the run has too.

    Raises:
        ExportError: some would be lost.
    """
    lost = [name for name in there if name in source.others]
    if lost:
        remedy = "export all with --vectors all, or choose" if several else "choose"
        raise ExportError(
            f"{target} has vectors of {lost[0]}, which an export of {', '.join(source.dims)} would take away: "
            f"{remedy} another --out"
        )


def require_collections(target: str, there: Iterable[str], source: Source) -> None:
    """Refuse to write files anew without collections that they have and the run has too.

    Raises:
        ExportError: some would be lost.
    """
    lost = [name for name in there if name in source.other_collections]
    if lost:
        raise ExportError(
            f"{target} has collection {lost[0]}, which an export of {', '.join(source.collections)} would take away: "
            "export all without --collections, or choose another --out"
        )
