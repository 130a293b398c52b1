"""The folder of one run, from the moment it is made until the run is finished. Its shards are `shard_files`' matter.

Knows files, and `layout` says where each of them lies. Knows nothing of models, of what a vector means, or of what
run.json says.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.errors import OutputError, OutputPathError
from soloist.jsontext import json_text
from soloist.stores.atomic import disk_errors, make_folder, sync_folder
from soloist.stores.folder_lock import held, is_held
from soloist.stores.going_on import way_on
from soloist.stores.json_files import Used, read_json_file, write_json_file
from soloist.stores.layout import AHEAD, IDENTITY, INCOMING, PREVIOUS, STATE, Layout
from soloist.stores.manifest import NAME, Manifest
from soloist.stores.questions_file import is_questions_folder
from soloist.stores.shard_files import ShardFiles
from soloist.stores.sparse_files import SparseFiles
from soloist.stores.summary import made_by
from soloist.stores.term_files import TermFiles


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, each written once and whole. A shard that was written counts once the manifest has it.

    run = RunFolder.create(Path("out"))
    run.manifest.append(run.shards.write_chunks("notes", 0, [Chunk(id="a", text="hello")]))
    run.manifest.append(run.shards.write_vectors("notes", "bge-m3", 0, ["a"], np.ones((1, 4), np.float32)))
    ids, vectors = run.shards.read_vectors("notes", "bge-m3", 0)
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """The folder of a run: a new one, with its missing parents, or one that a run has begun before.

        Raises:
            OutputPathError: there is a file.
            OutputError: there is a folder with other files, or it cannot be written.
        """
        with disk_errors(path):
            if path.exists() and not path.is_dir():
                raise OutputPathError(f"{path} is a file: choose a new folder for the run")
            make_folder(path)
            if any(path.iterdir()) and not Layout(path).is_run():
                raise OutputError(f"{path} is not empty and is not a run folder: choose a new folder")
            Layout(path).require_no_links()
            with tempfile.TemporaryFile(dir=path):  # found out now, not after the first pass
                pass
        return cls(path)

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """The folder of a run, finished or not.

        Raises:
            OutputPathError: there is no folder, or it is not that of a run.
        """
        remedy = "give the folder that soloist embed wrote, its --out"
        if not path.exists():
            raise OutputPathError(f"{path} does not exist: {remedy}")
        if not path.is_dir():
            raise OutputPathError(f"{path} is a file and not a run folder: {remedy}")
        if not (path / "run.json").is_file() and not Layout(path).is_run():
            if is_questions_folder(path):
                raise OutputPathError(f"{path} has the questions of a run, and no chunks: {remedy}")
            raise OutputPathError(f"{path} is not a run folder, it has neither {NAME} nor {STATE}: {remedy}")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that is finished.

        Raises:
            OutputError: the folder is not that of a finished run.
        """
        folder = cls.at(path)
        if not folder.is_finished:
            remedy = "it is running, so wait until it ends" if folder.is_locked() else way_on(path)
            raise OutputError(f"{path} has no run.json, so the run is not finished: {remedy}")
        if not folder.manifest.exists():
            raise OutputError(
                f"{path} has no {NAME}: an earlier version of soloist wrote the run, so run soloist embed again into a "
                "new folder"
            )
        return folder

    @property
    def manifest(self) -> Manifest:
        """What is finished. Where no file was ever finished, it does not exist."""
        return Manifest(self.path)

    @property
    def shards(self) -> ShardFiles:
        """The files of chunks and vectors."""
        return ShardFiles(self.path)

    @property
    def sparse(self) -> SparseFiles:
        """The files of sparse vectors."""
        return SparseFiles(self.path)

    @property
    def terms(self) -> TermFiles:
        """The files of words."""
        return TermFiles(self.path)

    @property
    def incoming(self) -> RunFolder:
        """Where chunks are written until all of them are read."""
        return RunFolder(self.path / INCOMING)

    @property
    def ahead(self) -> RunFolder:
        """Where vectors that were embedded while the input was read wait for their pass."""
        return RunFolder(self.path / AHEAD)

    @property
    def is_finished(self) -> bool:
        """Whether a run came to its end in it, and no later one has begun to change it."""
        return (self.path / "run.json").is_file()

    def locked(
        self, *, shared: bool = False, on_lost: Callable[[str], object] = lambda why: None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Hold the folder for one run; with `shared` also against runs on other machines.

        Inside is a function that raises OutputError if another machine has taken the folder over, because this process
        gave no sign of life. `on_lost` is called then too, in a thread.

        Raises:
            OutputError: another run holds it.
        """
        return held(self.path, shared=shared, on_lost=on_lost)

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
            if (self.path / PREVIOUS).is_dir():
                shutil.rmtree(self.path / PREVIOUS)
            (self.path / STATE).unlink(missing_ok=True)
        _draw_identity(self)
        if made_by(_summary(self)) != made_by(json.loads(json_text(summary))):
            self.write_json("run.json", summary)

    def identity(self) -> str:
        """What tells the run from every other: 32 hex digits, drawn when it is first finished and kept from then on.

        A run that an earlier version finished has none yet, and gets it now.

        Raises:
            OutputError: it cannot be read, or it cannot be written now.
        """
        if not (self.path / IDENTITY).is_file():
            with self.locked():
                _draw_identity(self)
        return self.read_json_as(IDENTITY, _identity)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, e.g. `run.json`.

        Raises:
            ValueError: a name that is not a plain `*.json`, or NaN or infinity in the value.
            TypeError: a value that JSON does not have.
        """
        write_json_file(Layout(self.path).json(name), value)

    def read_json(self, name: str) -> Any:
        """The value of a JSON file of the run."""
        return self.read_json_as(name, lambda value: value)

    def read_json_as(self, name: str, use: Callable[[Any], Used]) -> Used:
        """What `use` makes of the value of a JSON file of the run.

        Raises:
            OutputError: the file cannot be read, or its value is another than `use` takes.
        """
        return read_json_file(Layout(self.path).json(name), use)


def _draw_identity(folder: RunFolder) -> None:
    try:
        folder.read_json_as(IDENTITY, _identity)
    except OutputError:  # missing, or damaged
        folder.write_json(IDENTITY, {"id": uuid.uuid4().hex})


def _identity(value: Any) -> str:
    return uuid.UUID(hex=value["id"]).hex


def _summary(folder: RunFolder) -> Any:
    """What run.json says; None where it is missing or is not JSON."""
    try:
        return folder.read_json("run.json")
    except OutputError:
        return None
