"""The texts of which one of a run's models makes no vector. All of them are known before the first lease.

They are an error that counts them or, as the run's `on_bad_input` says, left out for all models, so that all models of
the ensemble have the same rows. Each session looks for them again in the chunks as they were read, with the models that
it has. So a text that only another model could not read comes back.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soloist.config import RunConfig
from soloist.digests import DigestTable, text_digest
from soloist.encoding.encoder import Encoder
from soloist.encoding.vectorless import Look, may_lack_vectors
from soloist.engine.intake.left_out import LeftOut
from soloist.errors import OutputError
from soloist.events import EventSink, Notice, TextsLeftOut
from soloist.ingestion.ingest import ShardRef, nothing_to_embed, skip_event
from soloist.stores import RunFolder
from soloist.stores.leaving_out import keep_chunks
from soloist.stores.skipped import skipped_log
from soloist.types import Collection, Place, Shard, SkippedInput, Vectorless

_LOOKED_AT_TOGETHER = 512  # texts, between two looks at whether the run is to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _VectorlessText:
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
    embedded: Container[ShardRef] = (),
) -> tuple[ShardRef, ...]:
    """The incoming shards of a run without the texts of which a model makes no vector; `skipped.jsonl` has those.

    The shards in `embedded` have a vector of each text by every model. `check` is called now and then, and raises where
    the run should end.

    Raises:
        VectorlessTextsError: there are such texts, and the config's `on_bad_input` is "error".
        InputError: nothing is left.
    """
    looks = {name: Look(encoder) for name, encoder in encoders.items() if may_lack_vectors(encoder)}
    if not looks:
        return tuple(shards)
    fingerprints = {name: encoders[name].staged.fingerprint for name in looks}
    search = _Search(folder, looks, _with_vectors(folder, fingerprints, check), config.root, check, embedded)
    if config.source.on_bad_input == "error":
        _require_none(search, shards)
        return tuple(shards)
    left = _left_out(search, shards, folder.incoming, sink)
    if not left:
        raise nothing_to_embed(collections, search.left_out.skipped)
    return left


class _Search:
    """Looks through shards, and counts the texts without a vector."""

    def __init__(
        self,
        folder: RunFolder,
        looks: Mapping[str, Look],
        known: Mapping[str, DigestTable],
        root: Path | None,
        check: Callable[[], object],
        embedded: Container[ShardRef],
    ) -> None:
        self._embedded = embedded
        self._folder = folder
        self._looks = looks
        self._known = known
        self._root = root
        self._check = check
        self.left_out = LeftOut()

    def through(self, ref: ShardRef) -> list[_VectorlessText]:
        """The texts of the next shard without a vector, in order."""
        if ref in self._embedded:
            return []
        shard = self._folder.incoming.shards.read_shard(ref.collection, ref.index)
        reasons: dict[int, dict[str, Vectorless]] = {}
        digests = [text_digest(text) for text in shard.texts]
        for model in self._looks:
            for row, reason in self._look(model, shard, digests):
                reasons.setdefault(row, {})[model] = reason
        places = self._folder.incoming.shards.read_places(ref.collection, ref.index) if reasons else ()
        return [self._text(ref, row, places[row], digests[row], reasons[row]) for row in sorted(reasons)]

    def _look(self, model: str, shard: Shard, digests: Sequence[bytes]) -> Iterator[tuple[int, Vectorless]]:
        """The rows of a shard of which a model makes no vector. A text that has one is not looked at again."""
        known = self._known[model]
        unknown = [row for row, digest in enumerate(digests) if known.find(digest) is None]
        for start in range(0, len(unknown), _LOOKED_AT_TOGETHER):
            self._check()
            rows = unknown[start : start + _LOOKED_AT_TOGETHER]
            reasons = self._looks[model].at([shard.texts[row] for row in rows])
            for at, row in enumerate(rows):
                if at in reasons:
                    yield row, reasons[at]
                else:
                    known.add(digests[row])

    def _text(
        self,
        ref: ShardRef,
        row: int,
        read: tuple[str, str | None, int | None],
        digest: bytes,
        reasons: Mapping[str, Vectorless],
    ) -> _VectorlessText:
        id_, file, index = read
        assert index is not None  # only what was read now has it, and only chunks of a folder have a file
        name = file or ref.collection
        place = Place(file=self._root / name if self._root is not None else Path(name), index=index)
        return _VectorlessText(row=row, item=self.left_out.add(ref.collection, id_, place, digest, reasons))


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
    """Leave such texts out of the shards, and say so: in the log, as events, and in a notice for each model."""
    kept: list[ShardRef] = []
    with skipped_log(incoming.path, more=True) as log:
        for collection, refs in itertools.groupby(shards, key=lambda ref: ref.collection):
            chunks, by_model = 0, Counter[str]()
            for ref in refs:
                texts = search.through(ref)
                for text in texts:
                    log.append(text.item)
                    sink.emit(skip_event(text.item))
                    by_model.update(text.item.models)
                chunks += len(texts)
                kept += _rest(incoming, ref, {text.row for text in texts})
            if chunks:
                sink.emit(TextsLeftOut(collection=collection, chunks=chunks, by_model=dict(by_model)))
    incoming.manifest.append(log.record())
    for model, message in search.left_out.notices():
        sink.emit(Notice(about=model, message=message))
    return tuple(kept)


def _rest(incoming: RunFolder, ref: ShardRef, left_out: Container[int]) -> list[ShardRef]:
    """The shard without the rows that are left out; none where nothing remains of it."""
    rows = [row for row in range(ref.rows) if row not in left_out]
    if len(rows) == ref.rows:
        return [ref]
    content = keep_chunks(incoming, ref.collection, ref.index, rows)
    return [replace(ref, rows=len(rows), content=content)] if rows else []
