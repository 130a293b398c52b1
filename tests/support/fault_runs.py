"""A small run, what its folder should look like, and means to really cause a fault."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.collections import write_catalogue

from soloist.config import RunConfig
from soloist.engine import RunResult, run
from soloist.errors import RunStoppedError
from soloist.events import Event, ShardEncoded
from soloist.stores import RunFolder

MODELS = ("one", "two")
COLLECTIONS = {"alpha": 20, "beta": 7}
SHARD_CHUNKS = 8
N_CHUNKS = sum(COLLECTIONS.values())
COMMAND = (sys.executable, "-m", "soloist")


def write_chunks(root: Path, name: str, chunks: int, words: int = 12) -> Path:
    """A collection of texts that are all different, in one chunk file."""
    items = [
        {
            "id": str(index),
            "text": f"{name!a} {index} " + " ".join(f"lease{index * step % 17}" for step in range(words)),
        }
        for index in range(chunks)
    ]
    file = root / name / "doc_chunks.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(items))
    return file


def config_in(folder: Path, models: dict[str, Path]) -> RunConfig:
    """Two models, two collections, five shards, all below a folder."""
    for name, chunks in COLLECTIONS.items():
        write_chunks(folder / "chunks", name, chunks)
    return RunConfig(
        chunks_root=folder / "chunks",
        out=folder / "run",
        models=MODELS,
        accelerator="cpu",
        catalogue=write_catalogue(folder / "catalogue.toml", models),
        shard_chunks=SHARD_CHUNKS,
        lock_dir=folder / "locks",
        cache_dir=folder / "cache",
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a run but those that say when and how: chunks, vectors, fused, manifest, skipped."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "id.json", "events.jsonl", ".lock")
    }


def vector_rows(folder: Path) -> dict[str, int]:
    """The rows with a vector by model, as the manifest has them."""
    rows = dict.fromkeys(MODELS, 0)
    for record in RunFolder(folder).manifest.read().values():
        if record.kind == "vectors":
            rows[record.model] += record.rows
    return rows


def embedded(result: RunResult) -> dict[str, int]:
    """The rows that each model embedded now."""
    return {model.name: model.embedded for model in result.models}


def require_sentence(error: BaseException | str) -> str:
    """The text of an error, which is one line with a remedy behind a colon or a comma, and no traceback."""
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text
    assert ": " in text or ", " in text
    return text


def finish(config: RunConfig, fresh: dict[str, bytes], *, before: dict[str, int] | None = None) -> None:
    """Run again: only rows without a vector are embedded, and the files are those of a run that met no fault."""
    had = before if before is not None else vector_rows(config.out)
    result = run(config)
    assert embedded(result) == {model: N_CHUNKS - had[model] for model in MODELS}
    assert files_of(config.out) == fresh
    assert not list(config.lock_dir.glob("*.holder"))  # type: ignore[union-attr]


def flip(path: Path, at: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


class On:
    """A sink that does something when an event comes that a condition holds for, once."""

    def __init__(self, condition: Callable[[Event], bool], act: Callable[[], object]) -> None:
        self._condition = condition
        self._act: Callable[[], object] | None = act

    def emit(self, event: Event) -> None:
        if self._act is not None and self._condition(event):
            act, self._act = self._act, None
            act()

    @property
    def happened(self) -> bool:
        """Whether it was done."""
        return self._act is None


def run_out_of_time(config: RunConfig) -> None:
    """Run until the time is over while the first shard is in work: on a busy machine it takes long to get there."""
    for seconds in (2.0, 8.0, 32.0, 128.0):
        late = On(lambda event: isinstance(event, ShardEncoded), lambda seconds=seconds: time.sleep(seconds))
        with pytest.raises(RunStoppedError, match="stopped because its time is over"):
            run(dataclasses.replace(config, stop_after=seconds), late)
        if late.happened:
            return
    pytest.fail("no shard was ever begun")


def command_environment() -> dict[str, str]:
    """The environment of a command in a process of its own: the same soloist as this one's."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def command_of(config: RunConfig, *more: str) -> list[str]:
    """The command line of a config."""
    return [
        "embed", str(config.chunks_root), "--out", str(config.out), "--models", ",".join(config.models),
        "--accelerator", config.accelerator, "--catalogue", str(config.catalogue), "--shard-chunks",
        str(config.shard_chunks), "--lock-dir", str(config.lock_dir), "--cache-dir", str(config.cache_dir),
        "--isolation", config.isolation, *more,
    ]  # fmt: skip
