"""Folders of files that an export owns: a marker says which files are its own, and no other is touched."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from soloist.errors import ExportError
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors, is_temporary, make_folder

MARKER = "soloist-export.json"


class ExportFolder:
    """A folder that one kind of export writes.

    Raises:
        ExportError: on opening, it has files and no export of this kind has written them.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self._kind = kind
        if path.exists() and not path.is_dir():
            raise ExportError(f"{path} is a file: choose a folder for the export to {kind}")
        with disk_errors(path):
            make_folder(path)
            others = [entry.name for entry in path.iterdir() if not is_temporary(entry.name)]
            for entry in list(path.iterdir()):
                if is_temporary(entry.name):
                    entry.unlink()
        self._known = self._read() if MARKER in others else None
        if others and (self._known is None or self._known.get("to") != kind):
            raise ExportError(f"{path} has files that no export to {kind} wrote: choose another folder, or empty it")
        if self._known is None:
            self._write({})

    @property
    def files(self) -> Mapping[str, str]:
        """The files of the last export, with the digest of what each is of; empty for one that was not finished."""
        return dict((self._known or {}).get("files", {}))

    def begin(self, names: Iterable[str]) -> None:
        """Say which files are about to be written, so that they are known as ours whatever ends it."""
        self._write({**dict.fromkeys(names, ""), **self.files})

    def done(self, name: str, digest: str) -> None:
        """Say that a file is finished."""
        self._write({**self.files, name: digest})

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write to, which becomes the file of this name."""
        with atomic_path(self.path / name) as temp, disk_errors(self.path / name):
            yield temp

    def finish(self, files: Mapping[str, str]) -> int:
        """Say which files are finished, and remove those that were and are no more; how many these were."""
        gone = [name for name in self.files if name not in files]
        with disk_errors(self.path):
            for name in gone:
                (self.path / name).unlink(missing_ok=True)
        self._write(files)
        return len(gone)

    def _write(self, files: Mapping[str, str]) -> None:
        self._known = {"to": self._kind, "files": dict(files)}
        with self.file(MARKER) as temp:
            temp.write_text(json_text(self._known, indent=2) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any] | None:
        try:
            known = json.loads((self.path / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return known if isinstance(known, dict) and isinstance(known.get("files"), dict) else None
