"""The texts of a run of which one of its models makes no vector: all of them are found before the first lease.

They are an error that counts them or, as the run's `on_bad_input` says, left out for all models, so that all members of
the ensemble have the same rows. Works on the chunks as they were read, which are not those of the run yet. So each
session finds them again by the models that it has: a text that another model could not read comes back.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soloist.config import RunConfig
from soloist.digests import DigestTable, text_digest
from soloist.encoding.encoder import Encoder
from soloist.encoding.vectorless import Look, may_lack_vectors
from soloist.engine.intake.ingest import ShardRef, nothing_to_embed, skip_event
from soloist.engine.intake.left_out import LeftOut
from soloist.errors import OutputError
from soloist.events import EventSink, Notice, TextsLeftOut
from soloist.stores import RunFolder
from soloist.stores.leaving_out import keep_chunks
from soloist.stores.skipped import skipped_log
from soloist.types import Collection, Place, Shard, SkippedInput, Vectorless

_LOOKED_AT_TOGETHER = 512  # texts, between two looks at whether the run is to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A text without a vector: its row, and what `skipped.jsonl` says of it."""

    row: int
    item: SkippedInput


def without_vectorless(
    shards: Sequence[ShardRef],
    encoders: Mapping[str, Encoder],
    folder: RunFolder,
    collections: Sequence[Collection],
    config: RunConfig,
    sink: EventSink,
    check: Callable[[], object],
) -> tuple[ShardRef, ...]:
    """The incoming shards of a run without the texts of which a model makes no vector; `skipped.jsonl` has those.

    `check` is called now and then, and raises where the run should end.

    Raises:
        VectorlessTextsError: there are such texts, and the config's `on_bad_input` is "error".
        InputError: nothing is left.
    """
    looks = {name: Look(encoder) for name, encoder in encoders.items() if may_lack_vectors(encoder)}
    if not looks:
        return tuple(shards)
    fingerprints = {name: encoders[name].staged.fingerprint for name in looks}
    search = _Search(folder, looks, _with_vectors(folder, fingerprints, check), config.chunks_root, check)
    if config.source.on_bad_input == "error":
        _require_none(search, shards)
        return tuple(shards)
    left = _left_out(search, shards, folder.incoming, sink)
    if not left:
        raise nothing_to_embed(collections, search.left_out.skipped)
    return left


class _Search:
    """Looks through shards, and keeps count of what it has found."""

    def __init__(
        self,
        folder: RunFolder,
        looks: Mapping[str, Look],
        known: Mapping[str, DigestTable],
        root: Path,
        check: Callable[[], object],
    ) -> None:
        self._folder = folder
        self._looks = looks
        self._known = known
        self._root = root
        self._check = check
        self.left_out = LeftOut()

    def through(self, ref: ShardRef) -> list[_Found]:
        """The texts of the next shard without a vector, in order."""
        shard = self._folder.incoming.shards.read_shard(ref.collection, ref.index)
        reasons: dict[int, dict[str, Vectorless]] = {}
        digests = [text_digest(text) for text in shard.texts]
        for model in self._looks:
            for row, reason in self._look(model, shard, digests):
                reasons.setdefault(row, {})[model] = reason
        places = self._folder.incoming.shards.read_places(ref.collection, ref.index) if reasons else ()
        return [self._found(ref, row, places[row], digests[row], reasons[row]) for row in sorted(reasons)]

    def _look(self, model: str, shard: Shard, digests: Sequence[bytes]) -> Iterator[tuple[int, Vectorless]]:
        """The rows of a shard of which a model makes no vector. A text that has one is not looked at again."""
        known = self._known[model]
        unknown = [row for row, digest in enumerate(digests) if known.find(digest) is None]
        for start in range(0, len(unknown), _LOOKED_AT_TOGETHER):
            self._check()
            rows = unknown[start : start + _LOOKED_AT_TOGETHER]
            found = self._looks[model].at([shard.texts[row] for row in rows])
            for at, row in enumerate(rows):
                if at in found:
                    yield row, found[at]
                else:
                    known.add(digests[row])

    def _found(
        self,
        ref: ShardRef,
        row: int,
        read: tuple[str, str | None, int | None],
        digest: bytes,
        reasons: Mapping[str, Vectorless],
    ) -> _Found:
        id_, file, index = read
        assert file is not None and index is not None  # what was read now has both
        place = Place(file=self._root / file, index=index)
        return _Found(row=row, item=self.left_out.add(ref.collection, id_, place, digest, reasons))


def _with_vectors(
    folder: RunFolder, fingerprints: Mapping[str, str], check: Callable[[], object]
) -> dict[str, DigestTable]:
    """The texts of which a finished file has a vector by each model: only of others there may be none."""
    tables = {name: DigestTable() for name in fingerprints}
    for record in folder.manifest.read().values():
        if record.kind != "vectors" or fingerprints.get(record.model) != record.fingerprint:
            continue
        check()
        try:
            digests = folder.shards.read_digests(record.collection, record.model, record.shard)
        except OutputError:  # damaged: its texts are looked at, and its vectors made again
            continue
        for digest in digests or ():
            tables[record.model].add(digest)
    return tables


def _require_none(search: _Search, shards: Sequence[ShardRef]) -> None:
    for ref in shards:
        search.through(ref)
    if search.left_out.skipped.count:
        raise search.left_out.error()


def _left_out(
    search: _Search, shards: Sequence[ShardRef], incoming: RunFolder, sink: EventSink
) -> tuple[ShardRef, ...]:
    """Take what is found out of the shards, and say so: in the log, as events, and a notice a model."""
    kept: list[ShardRef] = []
    with skipped_log(incoming.path, more=True) as log:
        for collection, refs in itertools.groupby(shards, key=lambda ref: ref.collection):
            chunks, by_model = 0, Counter[str]()
            for ref in refs:
                found = search.through(ref)
                for each in found:
                    log.append(each.item)
                    sink.emit(skip_event(each.item))
                    by_model.update(each.item.models)
                chunks += len(found)
                kept += _rest(incoming, ref, found)
            if chunks:
                sink.emit(TextsLeftOut(collection=collection, chunks=chunks, by_model=dict(by_model)))
    incoming.manifest.append(log.record())
    for model, message in search.left_out.notices():
        sink.emit(Notice(about=model, message=message))
    return tuple(kept)


def _rest(incoming: RunFolder, ref: ShardRef, found: Sequence[_Found]) -> list[ShardRef]:
    """The shard without what was found; none where nothing is left of it."""
    if not found:
        return [ref]
    gone = {each.row for each in found}
    rows = [row for row in range(ref.rows) if row not in gone]
    content = keep_chunks(incoming, ref.collection, ref.index, rows)
    return [replace(ref, rows=len(rows), content=content)] if rows else []
