"""Chunks that are taken out of a shard which is written already. Knows a run folder, and not why they go."""

from __future__ import annotations

from collections.abc import Sequence

from soloist.stores.atomic import disk_errors
from soloist.stores.run_folder import RunFolder


def keep_chunks(folder: RunFolder, collection: str, index: int, row_numbers: Sequence[int]) -> str:
    """Write a shard again with these of its rows, in their order; the digest of what is left. Without row numbers the
    shard goes, and the digest is empty: the shards beside it keep their numbers.

    Raises:
        OutputError: the shard cannot be read, or the disk does not take what is left.
    """
    if row_numbers:
        record = folder.shards.write_chunks(
            collection, index, folder.shards.read_chunks(collection, index, row_numbers)
        )
        folder.manifest.append(record)
        return record.content
    file = folder.shards.chunks_file(collection, index)
    folder.manifest.replace(record for record in folder.manifest.read().values() if record.file != file)
    with disk_errors(folder.path / file):
        (folder.path / file).unlink()
    return ""
