"""The pass of members that are words: texts in, their terms and counts on the disk out. Needs no device and no lease.

It goes before the leased passes, because it takes seconds where they may take hours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from soloist.digests import text_digest
from soloist.engine.resume.known_texts import Placement
from soloist.engine.resume.pending import ModelShard, RunShards, pending, tell_kept
from soloist.engine.resume.ragged_reuse import KnownRows, add_known
from soloist.events import BatchEncoded, EventSink, PassFinished, PassStarted, ShardEncoded
from soloist.ragged import TermRows
from soloist.stopping import Stop
from soloist.stores.manifest import FileRecord
from soloist.stores.tables import VectorFile
from soloist.stores.term_files import table_terms
from soloist.types import ShardSeconds, TokenTally
from soloist.words import Analyser, joined_terms


def words_left(members: Mapping[str, Analyser], run_shards: RunShards) -> Sequence[ModelShard]:
    """The shards whose words the folder does not have."""
    return pending(_of_words(run_shards), _fingerprints(members)).work


def analyse_all(members: Mapping[str, Analyser], run_shards: RunShards, sink: EventSink, stop: Stop) -> None:
    """Analyse every shard that is not finished, and tell a `ShardEncoded` of each.

    A text is analysed once for a member. Its terms are copied where the run, an earlier state of it or another run has
    them.

    Raises:
        RunStoppedError: the run was to end before all shards were done.
    """
    left = pending(_of_words(run_shards), _fingerprints(members))
    tell_kept(left.kept, sink)
    wanted = {item.model for item in left.work}
    passes = {
        name: _Pass(name, analyser, run_shards, sink, stop) for name, analyser in members.items() if name in wanted
    }
    for name in passes:
        chunks = sum(item.shard.rows for item in left.work if item.model == name)
        sink.emit(PassStarted(model=name, devices=(), chunks=chunks))
    for item in left.work:
        stop.check()
        passes[item.model].analyse(item)
    for name in passes:
        sink.emit(PassFinished(model=name, peak_bytes={}))


class _Pass:
    """One member at work on one shard after the other."""

    def __init__(self, name: str, analyser: Analyser, run_shards: RunShards, sink: EventSink, stop: Stop) -> None:
        self._name = name
        self._analyser = analyser
        self._folder = run_shards.folder
        self._sink = sink
        self._known: KnownRows[TermRows] = KnownRows(table_terms, joined_terms)

        def is_of_it(stored: FileRecord | VectorFile) -> bool:
            return stored.fingerprint == analyser.fingerprint

        add_known(self._known, self._folder, run_shards.others, name, is_of_it, stop.check)

    def analyse(self, item: ModelShard) -> None:
        """Put the words of a shard on the disk."""
        ref, began = item.shard, time.perf_counter()
        shard = self._folder.shards.read_shard(ref.collection, ref.index)
        digests = [text_digest(text) for text in shard.texts]
        file = self._folder.path / self._folder.shards.vectors_file(ref.collection, self._name, ref.index)
        placement = self._known.place(file, digests)
        read = time.perf_counter()
        fresh = self._analyser.rows([shard.texts[row] for row in placement.fresh])
        rows = self._known.whole(placement, digests, fresh)
        analysed = time.perf_counter()
        record = self._folder.terms.write(
            ref.collection, self._name, ref.index, shard.ids, rows, digests, self._analyser.fingerprint, ref.content
        )
        self._folder.manifest.append(record)
        self._known.written(placement, record.sha256)
        now = time.perf_counter()
        parts = ShardSeconds(reading=read - began, tokenizing=analysed - read, writing=now - analysed)
        words = int(fresh.lengths.sum())
        self._sink.emit(BatchEncoded(model=self._name, device="", rows=len(fresh)))
        self._sink.emit(replace(_event(item, placement, words, record), seconds=now - began, parts=parts))


def _event(item: ModelShard, placement: Placement, words: int, record: FileRecord) -> ShardEncoded:
    """Words stand where the tokens of a model do. No device has padded them."""
    return ShardEncoded(
        model=item.model, collection=item.shard.collection, shard=item.shard.index, rows=item.shard.rows, tokens=words,
        padded_tokens=words, truncated_rows=0, truncated_tokens=0, batch_rows=(), padded_lengths=(),
        rows_per_device={}, seconds=0.0, reused_rows=placement.reused, from_others_rows=placement.from_others,
        repeated_rows=placement.repeated, tally=record.tally or TokenTally(),
    )  # fmt: skip


def _fingerprints(members: Mapping[str, Analyser]) -> dict[str, str]:
    return {name: analyser.fingerprint for name, analyser in members.items()}


def _of_words(run_shards: RunShards) -> RunShards:
    """The same shards; counts of words are not stored in the dtype of vectors."""
    return replace(run_shards, vector_dtype="float32")
