"""A folder of chunks as a value that tests edit and write down, and the files of a run as a value that they compare."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from soloist.stores import RunFolder

Chunks = Mapping[str, Iterable[tuple[str, str]]]  # (id, text) by file, `collection/name`

_OF_TIMES = ("run.json", "id.json", "events.jsonl", ".lock")
_WORDS = (
    "lease", "chunk", "vector", "shard", "device", "memory", "batch", "token", "replica", "model", "pass", "fusion",
    "weight", "norm", "query", "index",
)  # fmt: skip


def write_chunks(root: Path, chunks: Chunks) -> Path:
    """Make `root` hold these chunks and no others; files are named `NAME_chunks.json`."""
    shutil.rmtree(root, ignore_errors=True)
    for name, items in chunks.items():
        path = root / f"{name}_chunks.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([{"text": text, "metadata": {"chunk_id": id_}} for id_, text in items]))
    return root


def empty_run(folder: Path) -> Path:
    """The folder of a run that has no chunks and no vectors."""
    RunFolder.create(folder).manifest.replace(())
    return folder


def run_files(run: Path) -> dict[str, bytes]:
    """What must be the same in two runs of the same chunks: every file but those that tell of times."""
    files = {path.relative_to(run).as_posix(): path for path in sorted(run.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in _OF_TIMES}


def assert_same_files(run: Path, other: Path) -> None:
    """Hold two run folders against each other, byte by byte, and name what differs."""
    mine, others = run_files(run), run_files(other)
    assert list(mine) == list(others)
    assert not [name for name, content in mine.items() if content != others[name]]


def random_text(generator: random.Random, longest: int = 40) -> str:
    """A text of 1 to `longest` words."""
    return " ".join(generator.choices(_WORDS, k=generator.randint(1, longest)))
