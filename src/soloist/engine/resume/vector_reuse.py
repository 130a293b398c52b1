"""Vectors that exist already: of the same text by the same model, wherever they are.

A text of a run is embedded once for each model. Its vector is looked for in the finished shards of the run, in what
was set aside when the chunks changed, and in the runs that `--reuse` names. Knows run folders; computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.digests import row_checksums
from soloist.engine.resume.known_texts import KnownTexts, Origin, has_changed
from soloist.engine.resume.known_texts import Placement as Placement  # whoever has vectors placed names it
from soloist.errors import OutputError
from soloist.stores.layout import PREVIOUS
from soloist.stores.manifest import FileRecord
from soloist.stores.rows import RowReader
from soloist.stores.run_folder import RunFolder
from soloist.stores.tables import (
    VectorFile,
    table_digests,
    table_matrix,
    vector_file,
    whole_table,
)
from soloist.types import VectorDType


class KnownVectors:
    """Where one model's vector of a text lies, in some 35 to 55 bytes a text.

    Files of other runs, and bytes on a disk, may change while a run is at work. So each vector has a checksum from
    when its file was read or written, and is compared with that when it is copied.
    """

    def __init__(self) -> None:
        self._texts = KnownTexts()
        self._checksums: dict[int, NDArray[np.uint32]] = {}  # (rows,) of each file
        self._reader = RowReader()

    def add_file(self, path: Path, digests: Sequence[bytes], vectors: Vectors, origin: Origin) -> None:
        """Record the texts whose vectors (rows, dim) a file has."""
        self._checksums[self._texts.add(path, digests, origin)] = row_checksums(vectors)

    def place(self, path: Path, digests: Sequence[bytes]) -> Placement:
        """Look for the texts of a shard, and record the new ones as rows of the file that the shard will have."""
        return self._texts.place(path, digests)

    def fill(
        self,
        path: Path,
        digests: Sequence[bytes],
        placement: Placement,
        vectors: Vectors,
        counts: NDArray[np.int32],
    ) -> None:
        """Put the copies of a shard into its vectors (rows, dim) and counts of tokens (rows, 2), whose fresh rows are
        there. Counts that a file does not have stay as they are.

        Raises:
            OutputError: a file that has some of them cannot be read, or its texts or vectors have changed.
        """
        for number in np.unique(placement.copies[:, 1]):
            rows, _, sources = placement.copies[placement.copies[:, 1] == number].T
            source = self._texts.file(number)
            if source == path:
                vectors[rows], counts[rows] = vectors[sources], counts[sources]
                continue
            stored = self._reader.read(source, sources)
            checksums = self._checksums.get(number)
            same_texts = stored.digests.tobytes() == b"".join(digests[row] for row in rows)
            if (
                not same_texts
                or checksums is None
                or not np.array_equal(row_checksums(stored.vectors), checksums[sources])
            ):
                raise has_changed(source)
            vectors[rows] = stored.vectors
            if stored.counts is not None:
                counts[rows] = stored.counts

    def written(self, placement: Placement, checksums: NDArray[np.uint32]) -> None:
        """Record the checksum of each vector that a shard's file has now, as the vector is read from the file."""
        self._checksums[placement.file] = checksums


def serves(stored: VectorDType, wanted: VectorDType) -> bool:
    """Whether a stored vector can replace one that would be computed and then stored as wanted.

    A float32 vector has every bit that was computed, so rounding it to float16 gives what a fresh one would be. A
    float16 vector has lost bits that float32 needs.
    """
    return stored in ("float32", wanted)


def known_vectors(
    folder: RunFolder,
    others: Iterable[RunFolder],
    model: str,
    fingerprint: str,
    vector_dtype: VectorDType = "float32",
    check: Callable[[], object] = lambda: None,
) -> KnownVectors:
    """The vectors by a model of this fingerprint that a run of this vector dtype can use.

    They are in its finished shards, set aside, or in other runs. Every file is read and compared with its checksum.
    `check` is called before each file, and may raise.
    """
    known = KnownVectors()

    def is_of_it(stored: FileRecord | VectorFile) -> bool:
        return stored.fingerprint == fingerprint and serves(stored.vector_dtype, vector_dtype)

    for record in folder.manifest.read().values():
        if record.kind == "vectors" and record.model == model and is_of_it(record):
            check()
            _add_file(known, folder.path / record.file, record.sha256, "this run")
    for path, stored in set_aside(folder):
        if is_of_it(stored):
            check()
            _add_file(known, path, path.stem, "earlier")
    for other in others:
        for record in other.manifest.read().values():
            if record.kind == "vectors" and is_of_it(record):
                check()
                _add_file(known, other.path / record.file, record.sha256, "other run")
    return known


def models_set_aside(folder: RunFolder) -> tuple[str, ...]:
    """The models whose vectors were set aside, and are not back in their places yet."""
    return tuple(dict.fromkeys(stored.model for _, stored in set_aside(folder) if stored.model))


def set_aside(folder: RunFolder) -> Iterator[tuple[Path, VectorFile]]:
    """The files that were set aside, and what they say of themselves; those that cannot be read are passed over."""
    previous = folder.path / PREVIOUS
    for path in sorted(previous.glob("*.parquet")) if previous.is_dir() else ():
        try:
            stored = vector_file(path)
        except OutputError:
            continue
        yield path, stored


def _add_file(known: KnownVectors, path: Path, sha256: str, origin: Origin) -> None:
    """Add a file whose bytes still have this checksum."""
    table = whole_table(path, sha256)
    digests = table_digests(table) if table is not None else None
    if table is not None and digests is not None:
        known.add_file(path, digests, table_matrix(table), origin)
