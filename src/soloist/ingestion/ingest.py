"""The first step of a run: read every chunk once, and write it down in shards.

Everything that can be wrong with the input shows here, before a network is loaded. What follows reads only the run's
own shards, which do not change under it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.config import RunConfig, SourceConfig
from soloist.errors import ConfigError, InputError, NothingToEmbedError
from soloist.events import EventSink, InputPassedOver, InputScanned, InputSkipped, Notice
from soloist.sources import DuplicateIds, GivenCollection, PassedOverFiles, SkippedInputs, read_chunks
from soloist.stores import RunFolder
from soloist.stores.skipped import skipped_log
from soloist.types import Chunk, Collection, SkippedInput

# A shard is held in memory: 4,096 chunks of code or prose are some 3 million characters, and a chunk may have 2.
SHARD_CHARACTERS = 1 << 26
_VALUE_CHARACTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRef:
    """A shard that is written down: where it is, how many chunks it has, and the digest of their ids and texts."""

    collection: str
    index: int
    rows: int
    content: str


def ingest(
    collections: Sequence[Collection],
    source: SourceConfig,
    folder: RunFolder,
    shard_chunks: int,
    sink: EventSink,
    required: Sequence[str] = (),
    check: Callable[[], object] = lambda: None,
    on_shard: Callable[[ShardRef], object] = lambda ref: None,
) -> tuple[ShardRef, ...]:
    """Write the chunks of all collections as shards of `shard_chunks`, in order; fewer where they are long, so that
    none goes beyond `SHARD_CHARACTERS` by more than one chunk.

    What is left out goes to `skipped.jsonl` and to the sink. `check` is called for every item, and raises where the
    reading should end. `on_shard` is called with each shard, once the shard is written.

    Raises:
        InputError: a file is not readable as chunks, two chunks of a collection have one id, a
            required collection is empty, or there is nothing to embed at all.
    """
    shards: list[ShardRef] = []
    in_all = SkippedInputs()
    with skipped_log(folder.path) as log:

        def on_skip(item: SkippedInput) -> None:
            in_all.add(item)
            log.append(item)
            sink.emit(skip_event(item))

        for collection in collections:
            written, skipped = _write_collection(collection, source, folder, shard_chunks, on_skip, check, on_shard)
            if not written and collection.name in required:
                raise empty_collection(collection, skipped)
            shards += written
            sink.emit(_scanned(collection, written, skipped))
    folder.manifest.append(log.record())
    if not shards:
        raise nothing_to_embed(collections, in_all)
    return tuple(shards)


def require_apart(config: RunConfig) -> None:
    """Refuse a run folder inside the folder of chunks.

    Raises:
        ConfigError: it is inside.
    """
    if config.root is None:
        return
    # Not Path.resolve: where a link leads to itself, what it raises is not an OSError.
    out, root = (Path(os.path.realpath(path)) for path in (config.out, config.root))
    if out.is_relative_to(root):
        raise ConfigError(
            f"the run folder {config.out} is inside the folder of chunks, where its files would be read as chunks: "
            "choose another --out"
        )


def _scanned(collection: Collection, written: Sequence[ShardRef], skipped: SkippedInputs) -> InputScanned:
    return InputScanned(
        collection=collection.name,
        files=len(collection.files),
        chunks=sum(shard.rows for shard in written),
        skipped=skipped.count,
    )


def tell_passed_over(files: PassedOverFiles, sink: EventSink) -> None:
    """Say which files below the root are not chunk files, where there are any."""
    if files.count:
        sink.emit(InputPassedOver(**files.to_dict()))
    if sentence := files.notice():
        sink.emit(Notice(about="input", message=sentence))


def empty_collection(collection: Collection, skipped: SkippedInputs) -> InputError:
    """The error for a collection that was asked for by name and has no chunks."""
    return InputError(
        f"the collection {collection.name} has no chunks to embed ({skipped}): leave the collection out, or add "
        "chunks to it"
    )


def nothing_to_embed(collections: Sequence[Collection], skipped: SkippedInputs) -> NothingToEmbedError:
    """The error where no collection has any chunks."""
    names = ", ".join(collection.name for collection in collections)
    are_given = any(isinstance(collection, GivenCollection) for collection in collections)
    remedy = "give texts" if are_given else "give files that contain chunks"
    return NothingToEmbedError(f"there are no chunks to embed in {names} ({skipped}): {remedy}")


def _write_collection(
    collection: Collection,
    source: SourceConfig,
    folder: RunFolder,
    shard_chunks: int,
    on_skip: Callable[[SkippedInput], None],
    check: Callable[[], object],
    on_shard: Callable[[ShardRef], object],
) -> tuple[list[ShardRef], SkippedInputs]:
    """The shards of a collection, which are written now, and what was left out of it."""
    skipped = SkippedInputs()

    def count(item: SkippedInput) -> None:
        skipped.add(item)
        on_skip(item)

    written: list[ShardRef] = []
    for shard in _write_shards(collection, source, folder, shard_chunks, count, check):
        written.append(shard)
        on_shard(shard)
    return written, skipped


def _write_shards(
    collection: Collection,
    source: SourceConfig,
    folder: RunFolder,
    shard_chunks: int,
    on_skip: Callable[[SkippedInput], None],
    check: Callable[[], object],
) -> Iterator[ShardRef]:
    pending: list[Chunk] = []
    index = characters = 0
    with DuplicateIds() as duplicates:
        for chunk, place in read_chunks(collection, source, on_skip, check):
            duplicates.add(chunk.id, place)
            pending.append(chunk)
            characters += len(chunk.text) + (_characters(chunk.metadata) if chunk.metadata else 0)
            if len(pending) == shard_chunks or characters >= SHARD_CHARACTERS:
                yield _write_shard(collection, index, pending, duplicates.check_added(), folder)
                index, pending, characters = index + 1, [], 0
        if pending:
            yield _write_shard(collection, index, pending, duplicates.check_added(), folder)


def _write_shard(
    collection: Collection, index: int, chunks: Sequence[Chunk], id_digests: Sequence[bytes], folder: RunFolder
) -> ShardRef:
    record = folder.shards.write_chunks(collection.name, index, chunks, id_digests)
    folder.manifest.append(record)
    return ShardRef(collection=collection.name, index=index, rows=record.rows, content=record.content)


def _characters(value: Any) -> int:
    """About how many characters a value of JSON has as text; whatever is not text counts as a few."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(name) + _characters(item) for name, item in value.items())
    return sum(map(_characters, value)) if isinstance(value, list) else _VALUE_CHARACTERS


def skip_event(item: SkippedInput) -> InputSkipped:
    """The event of something that was left out."""
    return InputSkipped(
        collection=item.collection, file=str(item.file), index=item.index, reason=item.reason, detail=item.detail,
        models=item.models,
    )  # fmt: skip
