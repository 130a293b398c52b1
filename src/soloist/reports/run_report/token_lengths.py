"""The token lengths of a run's texts, from the counts in its files of vectors. Reads two columns of some files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soloist.errors import OutputError
from soloist.reports.run_report.thinning import evenly
from soloist.reports.run_report.values import TokenLengths
from soloist.stores.manifest import FileRecord
from soloist.stores.tables import COUNT_COLUMNS, read_table, table_counts

FILES = 100  # files read for each model: opening a file takes about a millisecond
_BINS = 24
_ROUND = (1, 2, 5, 10)


def token_lengths(folder: Path, model: str, records: Iterable[FileRecord]) -> TokenLengths | None:
    """The token lengths of one model, from at most `FILES` of its files; None if no file has them."""
    files = [record.file for record in records if record.kind == "vectors" and record.model == model]
    read = [_counts(folder / file) for file in evenly(files, FILES)]
    found = [counts for counts in read if counts is not None and len(counts)]
    if not found:
        return None
    counts = np.concatenate(found)
    lengths, cut = counts[:, 0], counts[:, 1]
    edges = _edges(max(0, int(lengths.max())))
    return TokenLengths(
        model=model,
        files=len(files),
        files_read=len(found),
        files_damaged=sum(item is None for item in read),
        edges=tuple(edges),
        counts=_histogram(lengths, edges),
        cut_counts=_histogram(lengths[cut > 0], edges),
        texts=len(counts),
        texts_cut=int((cut > 0).sum()),
        tokens=int(lengths.sum(dtype=np.int64)),
        tokens_cut=int(cut.sum(dtype=np.int64)),
        longest=int(lengths.max()),
    )


def _counts(path: Path) -> NDArray[np.int32] | None:
    """The counts in a file; None if the file is damaged, or has none because an earlier version wrote it."""
    try:
        return table_counts(read_table(path, columns=COUNT_COLUMNS))
    except (OutputError, KeyError):
        return None


def _edges(longest: int) -> list[int]:
    """Edges of equal bins with a round width, from 0 to beyond the longest text."""
    need = max(1, -(-(longest + 1) // _BINS))
    scale = 10 ** (len(str(need)) - 1)
    width = next(step * scale for step in _ROUND if step * scale >= need)
    return [width * index for index in range(longest // width + 2)]


def _histogram(lengths: NDArray[np.int32], edges: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(count) for count in np.histogram(lengths, bins=list(edges))[0])
