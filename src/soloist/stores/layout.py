"""Where each file of a run lies inside its folder, and that no link leads out of it. Writes nothing.

    RUN/run.json  RUN/id.json  RUN/skipped.jsonl  RUN/manifest.jsonl  RUN/events.jsonl (the event sink's own)
    RUN/<collection>/chunks/part-00000.parquet
    RUN/<collection>/vectors/<model>/part-00000.parquet
    RUN/<collection>/fused/part-00000.parquet
    RUN/<collection>/index/<model>/index.safetensors (of words and of sparse vectors)
    RUN/fusion.safetensors (of a fusion that is fitted)

run.json is there when the run is finished, manifest.jsonl says which files are, and id.json tells the run from every
other, whatever becomes of its chunks. While a run is at work there are also `state.json`, `.lock`, `.lease` (of a run
on many machines), `.incoming` (chunks as they are read), `.ahead` (vectors that were embedded while the input was
read), `.attempts` (vectors that workers of a cluster have computed) and `.previous` (vectors of the chunks before).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from soloist.errors import OutputError
from soloist.stores.atomic import is_temporary
from soloist.stores.manifest import NAME
from soloist.stores.names import folder_name
from soloist.stores.run_lease import LEASE

STATE = "state.json"
IDENTITY = "id.json"
FIT = "fusion.safetensors"
INDEX = "index.safetensors"
SKIPPED = "skipped.jsonl"
INCOMING = ".incoming"
AHEAD = ".ahead"
ATTEMPTS = ".attempts"
PREVIOUS = ".previous"
HIDDEN = (INCOMING, AHEAD, ATTEMPTS)  # what only a run at work needs
_JSON_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.json")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a run's files, by the names of collections and models and the index of a shard."""

    root: Path

    def chunks(self, collection: str, index: int) -> Path:
        """A file of chunks."""
        return self.root / folder_name(collection) / "chunks" / _part(index)

    def vectors(self, collection: str, model: str, index: int) -> Path:
        """A file of a model's vectors."""
        return self.root / folder_name(collection) / "vectors" / folder_name(model) / _part(index)

    def fused(self, collection: str, index: int) -> Path:
        """A file of fused vectors."""
        return self.root / folder_name(collection) / "fused" / _part(index)

    def index(self, collection: str, model: str) -> Path:
        """The inverted index of a model's rows."""
        return self.root / folder_name(collection) / "index" / folder_name(model) / INDEX

    def json(self, name: str) -> Path:
        """A JSON file.

        Raises:
            ValueError: a name that is not a plain `*.json`.
        """
        if not _JSON_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a plain name of a JSON file: give one like 'run.json'")
        return self.root / name

    def inside(self, path: Path) -> str:
        """A path as the manifest has it, inside the folder."""
        return path.relative_to(self.root).as_posix()

    def is_run(self) -> bool:
        """Whether the files are those of a run: it has a manifest, or was stopped before it had one."""
        begun = {entry.name for entry in self.root.iterdir() if not is_temporary(entry.name)}
        return NAME in begun or (".lock" in begun and begun <= {".lock", LEASE, "events.jsonl", STATE, *HIDDEN})

    def require_inside(self, path: Path) -> None:
        """Refuse a path that a symbolic link leads out of the folder.

        Raises:
            OutputError: one does.
        """
        for inner in (path, *path.parents):
            if inner == self.root:
                return
            _require_no_link(inner)

    def require_no_links(self) -> None:
        """Refuse a folder in which there is a symbolic link.

        Raises:
            OutputError: there is one.
        """
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                _require_no_link(Path(folder, name))


def _require_no_link(path: Path) -> None:
    if path.is_symlink():
        raise OutputError(f"{path} is a symbolic link, and a run writes inside its own folder only: remove the link")


def _part(index: int) -> str:
    if index < 0:
        raise ValueError(f"shard index {index} is negative: shards count from 0")
    return f"part-{index:05d}.parquet"
