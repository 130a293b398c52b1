"""What a run would change in its folder: which chunks are new, changed, gone or as they were, and what it would embed.

Reads the chunks and the folder; loads no model and changes no byte. So it cannot see that a model's weights or settings
have changed: the counts of texts to embed hold only if they are those of the last session.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soloist.config import RunConfig
from soloist.digests import DigestTable, text_digest
from soloist.engine.intake.left_out import LeftOut
from soloist.engine.resume.checks import other_run, require_the_same
from soloist.engine.resume.kept_settings import fusion_change, with_kept_settings
from soloist.engine.resume.members import members_of
from soloist.engine.resume.vector_reuse import serves
from soloist.errors import OutputError
from soloist.ingestion.ingest import empty_collection, nothing_to_embed
from soloist.jsontext import json_text
from soloist.sources import DuplicateIds, SkippedInputs, input_of, read_chunks
from soloist.staging import require_distinct
from soloist.stores import RunFolder
from soloist.stores.manifest import FileRecord
from soloist.stores.tables import read_table, table_digests
from soloist.types import Chunk, Collection, SkippedInput, VectorDType, Vectorless


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionChanges:
    """Chunks of a collection by what became of their ids; `changed` have another text or other metadata."""

    name: str
    new: int
    changed: int
    gone: int
    unchanged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a run would do to a folder. `to_embed` are the texts without a vector by model, each counted once."""

    folder: Path
    collections: tuple[CollectionChanges, ...]
    to_embed: Mapping[str, int]
    skipped: int
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The changes as JSON-ready values."""
        return {**asdict(self), "folder": str(self.folder)}


def changes(config: RunConfig) -> Changes:
    """Compare the chunks of a config with what the folder of its run has; nothing is written.

    Raises:
        SoloistError: the run would be refused, or end at its input.
    """
    kept = with_kept_settings(config)
    config, folder = kept.config, RunFolder(kept.config.out)
    members = members_of(kept)
    models = tuple(members.specs)
    files = input_of(config)
    names = [collection.name for collection in files.collections]
    require_distinct("collections", names)
    require_the_same(folder, config, models, names)
    folders = [folder, *map(other_run, config.reuse)]
    known = {model: _known(model, config.vector_dtype, folders) for model in members.models}
    known |= {name: _known_words(fingerprint, folders) for name, fingerprint in members.word_fingerprints.items()}
    comparing = _Comparing(folder, known, _left_out_before(folder, models))
    compared = [comparing.of(collection, config) for collection in files.collections]
    if comparing.left_out.skipped.count and config.source.on_bad_input == "error":
        raise comparing.left_out.error()
    if not any(change.new + change.changed + change.unchanged for change in compared):
        raise nothing_to_embed(files.collections, comparing.skipped)
    passed_over, fusion = files.passed_over.notice(), fusion_change(kept)
    gone = [_gone(name, rows) for name, rows in _rows(folder).items() if name not in names]
    return Changes(
        folder=config.out,
        collections=(*compared, *gone),
        to_embed=comparing.to_embed,
        skipped=comparing.skipped.count,
        notices=(
            *([f"input: {passed_over}"] if passed_over else []),
            *(f"{notice.about}: {notice.message}" for notice in kept.notices),
            *([f"fusion: {fusion}"] if fusion else []),
        ),
    )


class _Comparing:
    """Compares one collection after the other, and counts the texts that have no vector yet."""

    def __init__(
        self, folder: RunFolder, known: Mapping[str, DigestTable], left_out_before: Mapping[str, dict[str, Vectorless]]
    ) -> None:
        self._folder = folder
        self._known = known
        self._left_out_before = left_out_before
        self.left_out = LeftOut()
        self._texts = DigestTable()
        self.to_embed = dict.fromkeys(known, 0)
        self.skipped = SkippedInputs()

    def of(self, collection: Collection, config: RunConfig) -> CollectionChanges:
        """The changes of one collection.

        Raises:
            InputError: a run would end at it.
        """
        had = _Had(self._folder, collection.name)
        counts = {"new": 0, "changed": 0, "unchanged": 0}
        duplicates, skipped = DuplicateIds(), SkippedInputs()

        def on_skip(item: SkippedInput) -> None:
            skipped.add(item)
            self.skipped.add(item)

        for chunk, place in read_chunks(collection, config.source, on_skip):
            duplicates.check(chunk.id, place)
            digest = text_digest(chunk.text)
            reasons = self._left_out_before.get(digest.hex())
            if reasons:
                self.skipped.add(self.left_out.add(collection.name, chunk.id, place, digest, reasons))
                continue
            counts[had.compared(chunk)] += 1
            self._count(digest)
        total = sum(counts.values())
        if not total and not self.left_out.skipped.count and collection.name in config.collections:
            raise empty_collection(collection, skipped)
        return CollectionChanges(name=collection.name, gone=had.rows - total + counts["new"], **counts)

    def _count(self, digest: bytes) -> None:
        if self._texts.add(digest) is None:
            for model, known in self._known.items():
                self.to_embed[model] += known.find(digest) is None


class _Had:
    """The chunks that a folder has of a collection, as digests: some 50 bytes a chunk."""

    def __init__(self, folder: RunFolder, collection: str) -> None:
        self._ids = DigestTable()
        self._contents = DigestTable()
        for shard in folder.shards.indices(collection):
            with contextlib.suppress(OutputError):  # damaged: its chunks are read again, as if they were new
                for chunk in folder.shards.read_chunks(collection, shard):
                    self._ids.add(text_digest(chunk.id))
                    self._contents.add(_content(chunk))

    @property
    def rows(self) -> int:
        return len(self._ids)

    def compared(self, chunk: Chunk) -> str:
        if self._ids.find(text_digest(chunk.id)) is None:
            return "new"
        return "changed" if self._contents.find(_content(chunk)) is None else "unchanged"


def _left_out_before(folder: RunFolder, models: Sequence[str]) -> dict[str, dict[str, Vectorless]]:
    """The texts, by digest, of which one of these models made no vector in the last session, and why."""
    try:
        lines = (folder.path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row.get("text_digest")]
        reasons = {row["text_digest"]: {m: row["reason"] for m in row["models"] if m in models} for row in rows}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or damaged: it is written again
        return {}
    return {digest: by_model for digest, by_model in reasons.items() if by_model}


def _content(chunk: Chunk) -> bytes:
    """The digest of a chunk: its id, text and metadata."""
    return text_digest(json_text([chunk.id, chunk.text, dict(chunk.metadata)]))


def _known(model: str, vector_dtype: VectorDType, folders: Iterable[RunFolder]) -> DigestTable:
    """The texts of which finished files have a vector by a model of this name that can be used."""
    return _texts(folders, lambda file: file.model == model and serves(file.vector_dtype, vector_dtype))


def _known_words(fingerprint: str, folders: Iterable[RunFolder]) -> DigestTable:
    """The texts of which finished files have the words that would be cut now."""
    return _texts(folders, lambda file: file.fingerprint == fingerprint)


def _texts(folders: Iterable[RunFolder], is_of_it: Callable[[FileRecord], bool]) -> DigestTable:
    """The texts that these files of vectors or words have rows of."""
    texts = DigestTable()
    for folder in folders:
        for record in folder.manifest.read().values():
            if record.kind == "vectors" and is_of_it(record):
                with contextlib.suppress(OutputError):  # damaged: it is made again
                    for digest in table_digests(read_table(folder.path / record.file, columns=("text_digest",))) or ():
                        texts.add(digest)
    return texts


def _rows(folder: RunFolder) -> dict[str, int]:
    """The chunks of each collection that a folder has."""
    rows: dict[str, int] = {}
    for record in folder.manifest.read().values():
        if record.kind == "chunks":
            rows[record.collection] = rows.get(record.collection, 0) + record.rows
    return rows


def _gone(name: str, rows: int) -> CollectionChanges:
    return CollectionChanges(name=name, new=0, changed=0, gone=rows, unchanged=0)
