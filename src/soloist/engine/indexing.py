"""The indexes of a run: from a member's rows on disk to one inverted index a collection. Needs no device.

Dense vectors are searched as they are. Words and sparse vectors need an index, which follows from their rows alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from soloist.digests import contents_digest
from soloist.events import CollectionIndexed, EventSink
from soloist.ingestion.ingest import ShardRef
from soloist.jsontext import json_text
from soloist.models.loading import StagedModel
from soloist.ragged import RaggedRows, TermRows
from soloist.stopping import Stop
from soloist.stores.index_files import index_file, write_index_file
from soloist.stores.index_writing import FORMAT
from soloist.stores.run_folder import RunFolder
from soloist.types import VectorDType

ReadRows = Callable[[str, str, int], "RaggedRows | TermRows"]
"""The rows of a shard by a member, given the names of collection and member and the index of the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexing:
    """The indexes of these members over these shards. `fingerprints` has 16 hex digits for each member: over all that
    decides an index beside the texts.
    """

    fingerprints: Mapping[str, str]
    shards: tuple[ShardRef, ...]

    def collections(self) -> Iterator[tuple[str, list[ShardRef]]]:
        """The shards of each collection that has any, in order."""
        shards: dict[str, list[ShardRef]] = {}
        for shard in self.shards:
            shards.setdefault(shard.collection, []).append(shard)
        yield from shards.items()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """An index that is to be made, and the digest of what it will be of."""

    member: str
    collection: str
    shards: Sequence[ShardRef]
    content: str


def indexing(fingerprints: Mapping[str, str], shards: Sequence[ShardRef]) -> Indexing:
    """The indexes of members of these fingerprints, which are those of their rows, over the shards of a run."""
    made = {member: index_fingerprint(fingerprint) for member, fingerprint in fingerprints.items()}
    return Indexing(fingerprints=made, shards=tuple(shards))


def compared_by_cosine(staged: Mapping[str, StagedModel]) -> frozenset[str]:
    """The sparse models whose files ask for the cosine. Their indexes have rows of length 1, their files do not."""
    return frozenset(name for name, model in staged.items() if (model.kind, model.similarity) == ("sparse", "cosine"))


def indexed_as(staged: Mapping[str, StagedModel], vector_dtype: VectorDType) -> dict[str, str]:
    """What decides the index of each sparse model, beside the texts."""
    lengths = dict.fromkeys(compared_by_cosine(staged), " of length 1")
    sparse = {name: model.fingerprint for name, model in staged.items() if model.kind == "sparse"}
    return {name: f"{fingerprint} {vector_dtype}{lengths.get(name, '')}" for name, fingerprint in sparse.items()}


def index_fingerprint(of_rows: str) -> str:
    """The fingerprint of an index, given that of the rows: another format of the file is another index."""
    return hashlib.sha256(json_text({"format": FORMAT, "rows": of_rows}).encode()).hexdigest()[:16]


def is_indexed(what: Indexing, folder: RunFolder) -> bool:
    """Whether nothing is left to index."""
    return not list(_due(what, folder))


def index_all(what: Indexing, folder: RunFolder, read: ReadRows, sink: EventSink, stop: Stop) -> None:
    """Make the index of every collection that has none of its present texts.

    Raises:
        RunStoppedError: the run was to end before all were done. The index at work is begun again by the next session.
        OutputError: a file of rows is damaged, or the disk does not take an index.
    """
    for due in list(_due(what, folder)):

        def rows(due: _Due = due) -> Iterator[RaggedRows | TermRows]:
            for shard in due.shards:
                stop.check()
                yield read(shard.collection, due.member, shard.index)

        record = write_index_file(
            folder.path, due.collection, due.member, rows, content=due.content,
            fingerprint=what.fingerprints[due.member],
        )  # fmt: skip
        folder.manifest.append(record)
        sink.emit(CollectionIndexed(model=due.member, collection=due.collection, rows=record.rows))


def _due(what: Indexing, folder: RunFolder) -> Iterator[_Due]:
    """The indexes that are missing, or are of other texts or settings, in the order of the collections."""
    finished = folder.manifest.read()
    for collection, shards in what.collections():
        content = contents_digest(shard.content for shard in shards)
        for member, fingerprint in what.fingerprints.items():
            record = finished.get(index_file(folder.path, collection, member))
            if record is None or (record.content, record.fingerprint) != (content, fingerprint):
                yield _Due(member=member, collection=collection, shards=shards, content=content)
