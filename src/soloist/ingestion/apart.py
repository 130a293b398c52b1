"""Reads the input in a process of its own, beside a process that embeds what was read.

Reading and tokenizing are mostly Python's own work, and of that a process does one piece at a time. So where tables of
vectors embed beside the reading, two processes take little more time than the longer work of the two. The reading
process imports neither torch nor a model. It writes the shards that `ingest` would write here.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soloist.child_processes import end_with_starter
from soloist.config import SourceConfig
from soloist.errors import InputError
from soloist.events import EventSink
from soloist.ingestion.ingest import ShardRef, ingest
from soloist.sources import GivenCollection
from soloist.stores import RunFolder
from soloist.types import Collection
from soloist.worker_processes import ParentProcess, WorkerProcess, work_for_parent

# A process of its own costs 0.4 s of a core to start. A core reads so many bytes of short chunks in some 4 s.
_LARGE_BYTES = 32 << 20
_START_SECONDS = 60.0
_CODE = "from soloist.ingestion.apart import main; main()"


def input_bytes(collections: Sequence[Collection]) -> int:
    """The bytes of all input files as they lie on the disk."""
    return sum(_size(file) for collection in collections for file in collection.files)


def is_read_apart(collections: Sequence[Collection]) -> bool:
    """Whether a process of its own may read these collections, and saves time by it: large ones that have files."""
    can_start = bool(sys.executable) and not getattr(sys, "frozen", False)  # else it is no Python that runs code
    has_files = not any(isinstance(collection, GivenCollection) for collection in collections)
    return can_start and has_files and input_bytes(collections) >= _LARGE_BYTES


def ingest_apart(
    collections: Sequence[Collection],
    source: SourceConfig,
    folder: RunFolder,
    shard_chunks: int,
    sink: EventSink,
    required: Sequence[str],
    check: Callable[[], object],
    on_shard: Callable[[ShardRef], object],
) -> tuple[ShardRef, ...]:
    """As `ingest`, in another process; in this one, where no other begins to read. The events come from a thread.

    Raises:
        InputError: as `ingest`, or the process was ended from outside, or failed.
    """
    request = _request(collections, source, folder, shard_chunks, required)
    reader = WorkerProcess(_CODE, request, sink, lost=_lost, unexpected=_unexpected)
    with contextlib.ExitStack() as held:
        if _begin(reader, held, check):
            shards: list[ShardRef] = []
            while (said := reader.follow("shard", "done", check=check))["word"] == "shard":
                shards.append(ShardRef(**said["shard"]))
                on_shard(shards[-1])
            return tuple(shards)
    return ingest(collections, source, folder, shard_chunks, sink, required, check, on_shard)


def _begin(reader: WorkerProcess, held: contextlib.ExitStack, check: Callable[[], object]) -> bool:
    """Whether a process begins to read. It may not start, or be another program than this Python."""
    try:
        held.enter_context(reader)
    except (OSError, RuntimeError):
        return False
    deadline = time.monotonic() + _START_SECONDS

    def check_all() -> None:
        check()
        if time.monotonic() > deadline:
            raise _lost("has not begun")

    try:
        reader.follow("begun", check=check_all)
    except _LostReaderError:
        return False
    return True


def _request(
    collections: Sequence[Collection],
    source: SourceConfig,
    folder: RunFolder,
    shard_chunks: int,
    required: Sequence[str],
) -> dict[str, Any]:
    """What the reading process receives: JSON-ready values."""
    return {
        "collections": [
            {
                "name": collection.name,
                "root": str(collection.root),
                "files": list(map(str, collection.files)),
                "folder": collection.folder,
            }
            for collection in collections
        ],
        "source": asdict(source),
        "folder": str(folder.path),
        "shard_chunks": shard_chunks,
        "required": list(required),
    }


def main() -> None:
    """The reading process: all collections, as the first line of standard input names them."""
    end_with_starter()  # a killed run holds its folder no more
    parent = ParentProcess()
    work_for_parent(parent, functools.partial(_read, parent))


def _read(parent: ParentProcess, request: Mapping[str, Any]) -> dict[str, Any]:
    collections = [
        Collection(
            name=each["name"], root=Path(each["root"]), files=tuple(map(Path, each["files"])), folder=each["folder"]
        )
        for each in request["collections"]
    ]
    parent.say("begun")
    source = SourceConfig(**{**request["source"], "file_patterns": tuple(request["source"]["file_patterns"])})
    ingest(
        collections, source, RunFolder(Path(request["folder"])), request["shard_chunks"], parent, request["required"],
        on_shard=lambda shard: parent.say("shard", shard=asdict(shard)),
    )  # fmt: skip
    return {}


class _LostReaderError(InputError):
    """The reading process has ended without a word."""


def _lost(how: str) -> _LostReaderError:
    return _LostReaderError(
        f"the process that reads the chunks {how} before it had read all of them: look for its messages above, or in "
        "the system's log if memory ran out, then run again"
    )


def _unexpected(what: str) -> InputError:
    return InputError(f"the process that reads the chunks failed: {what}")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # the reading tells what is wrong with the file
        return 0
