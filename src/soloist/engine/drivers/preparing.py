"""A shard on its way to the devices: its texts, which of them have no vector, and their batches.

What two models share one network for is prepared once. Knows run folders and encoders; computes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soloist.digests import text_digest
from soloist.encoding.encoder import Encoder
from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.row_stores import RowStore
from soloist.engine.intake.ahead import AheadFile
from soloist.engine.resume.known_texts import Placement
from soloist.engine.resume.pending import ModelShard
from soloist.engine.shard_encoding import PlannedTexts, PreparedTexts, plan_texts, prepare_texts
from soloist.ingestion.ingest import ShardRef
from soloist.memory.planner import BatchLimits
from soloist.stores import RunFolder
from soloist.types import ShardSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A shard to embed, and the models that share one encoder for it. Most encoders have one model."""

    models: tuple[str, ...]
    shard: ShardRef


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedShard:
    """A shard with its batches. `placements` says by model which rows are known. `fresh` are the texts whose row one of
    the models lacks.

    `parts` are the seconds of the steps so far, the first of which began at `begun`, by `time.perf_counter`.
    """

    shard: ShardRef
    placements: Mapping[str, Placement]
    fresh: PlannedTexts
    parts: ShardSeconds
    begun: float = 0.0

    @property
    def model(self) -> str:
        """The first of its models."""
        return next(iter(self.placements))

    @property
    def fresh_rows(self) -> list[int]:
        """The rows of the fresh texts in the shard."""
        return _fresh_rows(self.placements)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedShard(PlannedShard):
    """A shard whose texts are tokenized and ready for the devices."""

    ids: tuple[str, ...]
    digests: tuple[bytes, ...]
    fresh: PreparedTexts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WaitingShard(PlannedShard):
    """A shard whose vectors were embedded while the input was read, and wait in a file."""

    file: AheadFile


def at_once(work: Sequence[ModelShard], context: PassContext) -> list[Work]:
    """The work in order, with the models of an encoder together."""
    models: dict[tuple[ShardRef, str], list[str]] = {}
    for item in work:
        models.setdefault((item.shard, context.together(item.model)[0]), []).append(item.model)
    return [Work(models=tuple(names), shard=shard) for (shard, _), names in models.items()]


def prepare_shard(
    item: Work, folder: RunFolder, encoder: Encoder, limits: BatchLimits, stores: Mapping[str, RowStore]
) -> PreparedShard:
    """Read a shard, look for the rows that are known, and tokenize the other texts."""
    ref, began = item.shard, time.perf_counter()
    shard = folder.shards.read_shard(ref.collection, ref.index)
    digests = tuple(text_digest(text) for text in shard.texts)
    placements = {model: stores[model].place(_file(folder, ref, model), digests) for model in item.models}
    rows = _fresh_rows(placements)
    read = time.perf_counter()
    fresh = prepare_texts(encoder, limits, [shard.ids[row] for row in rows], [shard.texts[row] for row in rows])
    parts = ShardSeconds(reading=read - began, tokenizing=time.perf_counter() - read)
    return PreparedShard(
        shard=ref, ids=shard.ids, digests=digests, placements=placements, fresh=fresh, parts=parts, begun=began
    )


def _file(folder: RunFolder, ref: ShardRef, model: str) -> Path:
    return folder.path / folder.shards.vectors_file(ref.collection, model, ref.index)


def _fresh_rows(placements: Mapping[str, Placement]) -> list[int]:
    """The rows that at least one model does not have yet."""
    return sorted({row for placement in placements.values() for row in placement.fresh})


def waiting_shard(
    item: Work, file: AheadFile, folder: RunFolder, encoder: Encoder, limits: BatchLimits, store: RowStore
) -> WaitingShard:
    """As `prepare_shard`, for a shard whose vectors wait in a file: the token counts in the file give the batches."""
    ref, (model,) = item.shard, item.models
    digests, counts = folder.ahead.shards.read_digests_and_counts(ref.collection, model, ref.index)
    placement = store.place(folder.path / file.record.file, digests)
    fresh = plan_texts(encoder, limits, counts[list(placement.fresh)])
    parts = ShardSeconds(encoding=file.seconds)
    return WaitingShard(shard=ref, placements={model: placement}, fresh=fresh, parts=parts, file=file)
