"""Batching. Pure: token lengths and limits in, batches of rows out. Knows nothing of models or devices.

Where rows are not packed, a row is padded to a bucket that depends on its own length alone, and a batch has rows of one
bucket. So the vector of a row does not depend on its neighbours, the order of the input, the number of devices or the
free memory. On a CPU, equal padded lengths gave equal bits for every batch size, and another padding moved a vector by
up to 2e-3 in bf16.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from soloist.types import Batch

RowsFor = Callable[[int], int]  # the most rows of a padded length that may share a batch

SMALLEST_STEP = 4
STEPS_PER_OCTAVE = 16
# Tokenizers take their texts in one go: some 170 bytes a character of prose, 600 of punctuation.
TOKENIZED_CHARACTERS = 1 << 21


def slices(texts: Sequence[str], characters: int = TOKENIZED_CHARACTERS) -> Iterator[Sequence[str]]:
    """The texts in order, in slices of at most so many characters together, and of at least one text."""
    first = size = 0
    for row, text in enumerate(texts):
        if size + len(text) > characters and row > first:
            yield texts[first:row]
            first, size = row, 0
        size += len(text)
    if len(texts) > first:
        yield texts[first:]


def bucket(length: int, longest: int | None = None) -> int:
    """The padded length of a row of `length` tokens, at most `longest`.

    Buckets are 4 tokens apart up to 128, and then 1/16 of the power of two below. So padding adds at most 1/16 of a
    row, or 3 tokens.
    """
    if length <= 1:
        return 1
    step = max(SMALLEST_STEP, (1 << (length - 1).bit_length() - 1) // STEPS_PER_OCTAVE)
    padded = -(-length // step) * step
    return padded if longest is None else max(length, min(padded, longest))


def within(budget: int) -> RowsFor:
    """The rows that have at most `budget` padded tokens together, and at least one row."""
    return lambda padded_length: max(1, budget // max(1, padded_length))


def plan_batches(
    lengths: Sequence[int],
    rows_for: RowsFor,
    longest: int | None = None,
    fills: Callable[[int], bool] = lambda padded_length: False,
) -> tuple[Batch, ...]:
    """Put rows of these token lengths into batches of at most `rows_for(padded length)` rows.

    Rows of one bucket are cut into even pieces, so that no device ends with a sliver. Where `fills(padded length)` they
    are cut into full batches and a rest: memory limits them there, and it should be used.

    Every row is in exactly one batch. The largest batches come first, so that a device's allocator meets its largest
    request at the start. Rows of one bucket stay in input order.
    """
    rows_of: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        rows_of.setdefault(bucket(length, longest), []).append(row)
    batches = [
        Batch(rows=tuple(chosen), padded_length=padded)
        for padded, rows in rows_of.items()
        for chosen in _cut(rows, rows_for(padded), full=fills(padded))
    ]
    return tuple(sorted(batches, key=lambda batch: (-batch.padded_tokens, -batch.padded_length, batch.rows)))


def plan_unpadded(lengths: Sequence[int], rows_for: RowsFor, *, longest_first: bool = False) -> tuple[Batch, ...]:
    """Batches without padding, in input order or, to have rows of one length together, the longest first.

    A batch has as many rows as their mean length allows. The `padded_length` of a batch is that mean, rounded up.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row]) if longest_first else range(len(lengths))
    batches: list[Batch] = []
    rows: list[int] = []
    tokens = 0
    most: dict[int, int] = {}  # by mean length: neighbours have nearly the same
    for row in order:
        length = lengths[row]
        if rows:
            mean = -(-(tokens + length) // (len(rows) + 1))
            if mean not in most:
                most[mean] = rows_for(mean)
            if len(rows) + 1 > most[mean]:
                batches.append(_unpadded(rows, tokens))
                rows, tokens = [], 0
        rows.append(row)
        tokens += length
    return (*batches, _unpadded(rows, tokens)) if rows else tuple(batches)


def _unpadded(rows: Sequence[int], tokens: int) -> Batch:
    return Batch(rows=tuple(rows), padded_length=-(-tokens // len(rows)))


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The two halves of a batch of two or more rows, with the padded length unchanged."""
    middle = len(batch.rows) // 2
    return (
        Batch(rows=batch.rows[:middle], padded_length=batch.padded_length),
        Batch(rows=batch.rows[middle:], padded_length=batch.padded_length),
    )


def _cut(rows: Sequence[int], size: int, *, full: bool) -> list[Sequence[int]]:
    if full:
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    pieces = -(-len(rows) // size)
    edges = [len(rows) * piece // pieces for piece in range(pieces + 1)]
    return [rows[start:end] for start, end in itertools.pairwise(edges)]
