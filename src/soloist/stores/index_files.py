"""The inverted indexes of a run folder: where each lies, and its record. `index_writing` says what is in them."""

from __future__ import annotations

from pathlib import Path

from soloist.errors import OutputError
from soloist.stores.index_reading import InvertedIndex
from soloist.stores.index_writing import Shards, write_index
from soloist.stores.layout import Layout
from soloist.stores.manifest import FileRecord, record_of


def index_file(root: Path, collection: str, member: str) -> str:
    """The path of an index inside the folder, as the manifest has it."""
    return Layout(root).inside(Layout(root).index(collection, member))


def write_index_file(
    root: Path, collection: str, member: str, shards: Shards, *, content: str, fingerprint: str
) -> FileRecord:
    """Write the index of a member over a collection; the caller appends the record to the manifest.

    `shards` gives the member's rows of every shard, in order, and is called twice. `content` is the digest of the
    collection's shards (`contents_digest`).

    Raises:
        OutputError: the disk does not take the file, or the rows were changed meanwhile.
    """
    path = Layout(root).index(collection, member)
    Layout(root).require_inside(path)
    try:
        rows = write_index(path, shards)
    except ValueError as exc:
        raise OutputError(f"{path} cannot be made: {exc}") from exc
    return record_of(
        root, path, "index", rows, collection=collection, model=member, content=content, fingerprint=fingerprint
    )


def open_index(root: Path, collection: str, member: str) -> InvertedIndex:
    """Map the index of a member over a collection.

    Raises:
        OutputError: it is missing or damaged.
    """
    return InvertedIndex.open(Layout(root).index(collection, member))
