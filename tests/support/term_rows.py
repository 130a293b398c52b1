"""Rows of words from the terms and counts of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soloist.ragged import RaggedRows, TermRows


def term_rows(counts: Sequence[dict[str, int]]) -> TermRows:
    """The rows of texts whose terms and counts these are."""
    vocabulary = sorted({term for row in counts for term in row})  # Python's order of strings is that of UTF-8 bytes
    positions = {term: position for position, term in enumerate(vocabulary)}
    keys = np.fromiter((positions[term] for row in counts for term in row), np.uint32)
    values = np.fromiter((count for row in counts for count in row.values()), np.uint32)
    rows = RaggedRows.of([len(row) for row in counts], keys, values)
    numbers = np.repeat(np.arange(len(counts)), rows.lengths)
    order = np.lexsort((keys, numbers))
    return TermRows(
        vocabulary=tuple(vocabulary), rows=RaggedRows(starts=rows.starts, keys=keys[order], values=values[order])
    )
