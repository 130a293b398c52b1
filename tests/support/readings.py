"""One file, read as a run reads it, and what may come of that. Imports no torch, which takes seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from soloist.config import SourceConfig
from soloist.errors import InputError
from soloist.sources import DuplicateIds, read_chunks
from soloist.types import Chunk, Collection, OnBadInput, SkippedInput

_MESSAGE_CHARS = 1500


@dataclass(slots=True, kw_only=True)
class Reading:
    """What came of a file: the chunks before the error, if there was one, and what was left out."""

    chunks: list[Chunk] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    skipped: list[SkippedInput] = field(default_factory=list)
    error: str = ""

    @property
    def seen(self) -> list[int]:
        """The indices of all items that were given out or left out, in order."""
        return sorted(self.indices + [item.index for item in self.skipped if item.index is not None])


def read(file: Path, on_bad_input: OnBadInput) -> Reading:
    """Read a file as a run does; only an `InputError` may come of it, and one that can be shown to a person."""
    reading = Reading()
    duplicates = DuplicateIds()
    collection = Collection(name="C", root=file.parent, files=(file,))
    try:
        for chunk, place in read_chunks(collection, SourceConfig(on_bad_input=on_bad_input), reading.skipped.append):
            duplicates.check(chunk.id, place)
            reading.chunks.append(chunk)
            reading.indices.append(place.index)
    except InputError as exc:
        reading.error = str(exc)
        check_message(reading.error, file)
    for item in reading.skipped:
        check_message(str(item), file)
    return reading


def check_message(message: str, file: Path) -> None:
    """One line, that no terminal takes for a command, that names the file, and that is not pages long."""
    assert str(file) in message, f"does not name the file: {message!a}"
    assert message.isprintable(), f"is more than one line of text: {message!a}"
    assert len(message) - len(str(file)) < _MESSAGE_CHARS, f"is {len(message)} characters long: {message[:500]!a}"


def peak_bytes() -> int:
    """The highest resident size of this process; not `ru_maxrss`, which starts with the parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
