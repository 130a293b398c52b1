"""The chunks that a run has just read become those of its folder. Finished files that still match them are kept.

All chunks lie in `.incoming` when this begins. Vectors of other chunks, or made with other settings, are set aside:
their texts may have moved to another shard. A process may be killed anywhere in here. The next run reads the folder
right, because a file counts only with the bytes that the manifest says.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from soloist.digests import DigestTable, contents_digest, text_digest
from soloist.stores.atomic import disk_errors, make_folder, sync_folder
from soloist.stores.layout import FIT, INDEX, PREVIOUS
from soloist.stores.manifest import FileRecord, is_intact
from soloist.stores.moving import move_in
from soloist.stores.run_folder import RunFolder

_SHARD_FILE = re.compile(
    rf"[^/]+/(chunks|fused|vectors/[^/]+)/part-\d{{5,}}\.parquet|[^/]+/index/[^/]+/{re.escape(INDEX)}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What the reconciling found: how many ids are gone, by collection, and files that were damaged."""

    removed: dict[str, int] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()


def reconcile_incoming(folder: RunFolder, is_current: Callable[[FileRecord], bool]) -> Reconciled:
    """Put the incoming chunks into their places, and keep the files of vectors that are of them.

    `is_current` says whether the model or the fusion that a file is of still is what it was. Every finished file is
    read and held against its checksum.

    Raises:
        OutputError: the disk does not take it.
    """
    before = folder.manifest.read()
    incoming = folder.incoming.manifest.read()
    chunk_records = [record for record in incoming.values() if record.kind == "chunks"]
    contents = {(record.collection, record.shard): record.content for record in chunk_records}
    intact = {file: record for file, record in before.items() if is_intact(folder.path / file, record)}
    damaged = tuple(file for file in before if file not in intact and (folder.path / file).exists())
    kept = {
        file: record
        for file, record in intact.items()
        if _same_chunks(record, incoming, contents) and (record.kind in ("chunks", "skipped") or is_current(record))
    }
    changed = [record for file, record in incoming.items() if file not in kept]
    after = kept | incoming
    removed = _removed(folder, before.values(), incoming.values()) if changed or len(kept) < len(before) else {}
    if changed or kept != before:
        if not folder.manifest.exists():
            folder.manifest.replace(())  # whatever ends this, the folder is known as that of a run
        folder.reopen()
        _set_aside(folder, [record for file, record in intact.items() if file not in kept])
        # Before a file takes its place: a folder with files and no manifest would be taken for no run's.
        folder.manifest.replace(kept.values())
        _sweep(folder, after)
        for record in changed:
            move_in(folder, folder.incoming, record)
        folder.manifest.replace(after.values())
    with disk_errors(folder.incoming.path):
        shutil.rmtree(folder.incoming.path)
    return Reconciled(removed=removed, damaged=damaged)


def _same_chunks(record: FileRecord, incoming: dict[str, FileRecord], contents: dict[tuple[str, int], str]) -> bool:
    """Whether a file is as the incoming chunks have it: byte by byte, or, for vectors, of the same ids and texts.

    An index is of all shards of its collection. What was fitted to all vectors has a fingerprint over all of them.
    """
    if record.kind == "fit":
        return True
    if record.kind in ("chunks", "skipped"):
        return record.file in incoming and incoming[record.file].sha256 == record.sha256
    if record.kind == "index":
        shards = sorted(shard for shard in contents if shard[0] == record.collection)
        return record.content == contents_digest(contents[shard] for shard in shards)
    return bool(record.content) and contents.get((record.collection, record.shard)) == record.content


def _removed(folder: RunFolder, before: Iterable[FileRecord], incoming: Iterable[FileRecord]) -> dict[str, int]:
    """How many ids of each collection are in no incoming shard."""
    gone_by_collection: dict[str, int] = {}
    new = [record for record in incoming if record.kind == "chunks"]
    old = [record for record in before if record.kind == "chunks"]
    for collection in dict.fromkeys(record.collection for record in old):
        ids = DigestTable()
        for record in new:
            if record.collection == collection:
                for id_ in folder.incoming.shards.read_ids(collection, record.shard):
                    ids.add(text_digest(id_))
        intact = [
            record for record in old if record.collection == collection and is_intact(folder.path / record.file, record)
        ]
        gone = sum(
            ids.find(text_digest(id_)) is None
            for record in intact
            for id_ in folder.shards.read_ids(collection, record.shard)
        )
        if gone:
            gone_by_collection[collection] = gone
    return gone_by_collection


def _set_aside(folder: RunFolder, records: Iterable[FileRecord]) -> None:
    """Keep vectors of other chunks or settings until the run is finished, each under the sha256 of its file."""
    previous = folder.path / PREVIOUS
    with disk_errors(previous):
        for record in records:
            if record.kind == "vectors" and record.fingerprint:
                make_folder(previous)
                (folder.path / record.file).replace(previous / f"{record.sha256}.parquet")
        if previous.is_dir():
            sync_folder(previous)


def _sweep(folder: RunFolder, after: dict[str, FileRecord]) -> None:
    """Remove files of shards, and indexes, that are in no row: of chunks that are gone, or left by a killed run."""
    with disk_errors(folder.path):
        for path in [*folder.path.glob("[!.]*/**/part-*.parquet"), *folder.path.glob(f"[!.]*/index/*/{INDEX}")]:
            inside = path.relative_to(folder.path).as_posix()
            if inside not in after and _SHARD_FILE.fullmatch(inside):
                path.unlink()
        if FIT not in after:
            (folder.path / FIT).unlink(missing_ok=True)
        for inner in sorted((path for path in folder.path.glob("[!.]*/**") if path.is_dir()), reverse=True):
            if not any(inner.iterdir()):
                inner.rmdir()
