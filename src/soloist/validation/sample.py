"""The first chunks of a user's collections, written down for a rehearsal. Knows the input, and no models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from soloist.config import RunConfig, SourceConfig
from soloist.errors import InputError
from soloist.events import EventSink
from soloist.ingestion.ingest import tell_passed_over
from soloist.jsontext import json_text
from soloist.sources import input_of, read_chunks
from soloist.stores import folder_name
from soloist.stores.atomic import disk_errors
from soloist.types import Collection


def write_sample(config: RunConfig, chunks: object, target: Path, limit: int, sink: EventSink) -> int:
    """Write up to `limit` chunks, the first of every collection, as JSON Lines that every command can read; how many.

    `chunks` are what Python gave, or None for those of the config's folder.

    Raises:
        InputError: there are no chunks.
        OutputError: the disk does not take them.
    """
    found = input_of(config, chunks, again="soloist.validate")
    tell_passed_over(found.passed_over, sink)
    total = _write_collections(found.collections, config.source, target, limit)
    if not total:
        names = ", ".join(collection.name for collection in found.collections)
        raise InputError(f"there are no chunks to rehearse with in {names}: give some")
    return total


def _write_collections(collections: Sequence[Collection], source: SourceConfig, target: Path, limit: int) -> int:
    most = max(1, -(-limit // len(collections)))  # of one collection
    total = 0
    for collection in collections:
        total += _write_collection(collection, source, target, min(most, limit - total))
    return total


def _write_collection(collection: Collection, source: SourceConfig, target: Path, limit: int) -> int:
    lines: list[str] = []
    with contextlib.closing(read_chunks(collection, source, lambda item: None)) as chunks:  # type: ignore[type-var]
        for chunk, _ in chunks:
            if len(lines) == limit:
                break
            lines.append(json_text({"id": chunk.id, "text": chunk.text, "metadata": dict(chunk.metadata)}))
    if lines:
        file = target / folder_name(collection.name) / "sample.jsonl"
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)
