"""Whether a finished run is still the one that was opened. Knows run.json by its version, and not what it says.

A run takes run.json away before it changes any other file, and writes it again when it is finished. So files that were
read before run.json was seen to be the same one are those of the run that was opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soloist.errors import OutputError

_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The finished run that was in a folder when this was made, before anything of it was read.

    unchanged = Unchanged.of(folder.path)
    chunks = folder.shards.read_chunks("notes", 0)
    unchanged.require("search it again")  # the chunks are of that run
    """

    path: Path
    version: tuple[int, int, int] | None

    @classmethod
    def of(cls, path: Path) -> Unchanged:
        """The run that is there now."""
        return cls(path, _version(path))

    def require(self, way_on: str) -> None:
        """Refuse what was read so far if the folder has another run by now.

        Raises:
            OutputError: it has; `way_on` ends the sentence.
        """
        if self.version is None or self.version != _version(self.path):
            raise OutputError(f"the run in {self.path} was changed meanwhile: {way_on} when it is finished")


def _version(path: Path) -> tuple[int, int, int] | None:
    """What tells run.json from another that is written in its place; None where there is none."""
    try:
        about = (path / _FILE).stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns
