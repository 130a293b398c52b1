"""What is left to embed of a run: the shards without the vectors that they should have. Knows files and
fingerprints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soloist.events import EventSink, Notice, ShardsKept
from soloist.ingestion.ingest import ShardRef
from soloist.stores import RunFolder
from soloist.stores.manifest import FileRecord
from soloist.types import TokenTally, VectorDType


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunShards:
    """The shards of a run, the folder that has them and their vectors, and what those are stored as.

    `others` are the folders of other runs, whose vectors may be copied.
    """

    folder: RunFolder
    refs: Sequence[ShardRef]
    vector_dtype: VectorDType
    others: Sequence[RunFolder] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShard:
    """A shard to embed with one model."""

    model: str
    shard: ShardRef


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """What is left to embed, in order, and the files of vectors that are finished, by model."""

    work: Sequence[ModelShard]
    kept: Mapping[str, Sequence[FileRecord]]

    @property
    def chunks(self) -> dict[str, int]:
        """How many chunks each model has left; without the models that have none."""
        counts: Counter[str] = Counter()
        for item in self.work:
            counts[item.model] += item.shard.rows
        return dict(counts)


def pending(run_shards: RunShards, fingerprints: Mapping[str, str]) -> Pending:
    """What is left of a pass by models of these fingerprints, in their order."""
    finished = run_shards.folder.manifest.read()
    work: list[ModelShard] = []
    kept: dict[str, list[FileRecord]] = {}
    for shard in run_shards.refs:
        for model, fingerprint in fingerprints.items():
            record = finished.get(run_shards.folder.shards.vectors_file(shard.collection, model, shard.index))
            wanted = (shard.content, fingerprint, run_shards.vector_dtype)
            if record is not None and (record.content, record.fingerprint, record.vector_dtype) == wanted:
                kept.setdefault(model, []).append(record)
            else:
                work.append(ModelShard(model=model, shard=shard))
    return Pending(work=work, kept=kept)


def tell_kept(kept: Mapping[str, Sequence[FileRecord]], sink: EventSink) -> None:
    """Say how many shards of each model are kept; a notice where their tokens are not known."""
    for model, records in kept.items():
        tallies = [record.tally for record in records if record.tally is not None]
        rows = sum(record.rows for record in records)
        sink.emit(ShardsKept(model=model, shards=len(records), rows=rows, tally=sum(tallies, TokenTally())))
        if len(tallies) < len(records):
            without = len(records) - len(tallies)
            message = f"{without} of its shards were written by an earlier version: the counts lack their tokens"
            sink.emit(Notice(about=model, message=message))
