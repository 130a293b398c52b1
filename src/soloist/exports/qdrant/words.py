"""Words as sparse vectors of Qdrant, whose dot product with a question is BM25. Asks no client.

Qdrant multiplies each term of a question by its IDF, log(1 + (N - n + .5) / (n + .5)), which is that of BM25. So the
value of a term is the other factor: its count, as `soloist.words.bm25` has it. That depends on how long texts are on
average, which a few more texts hardly change. `settled_average` keeps the number of the export before.

A term's dimension is a hash of 32 bits. Two terms of one hash are one dimension: texts and questions add them up.

N counts the vectors that have a dimension. So a text without words has one that no term of a question asks for.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from soloist.exports.rows import Source
from soloist.ragged import RaggedRows, TermRows
from soloist.words.bm25 import length_parts, saturated

# How far the average may be off before all rows are written again. No score is off by more than this part of it.
AVERAGE_TOLERANCE = 0.01
_NO_TERM = ""
_NEXT_TO_NOTHING = 2.0**-20


@functools.lru_cache(maxsize=1 << 17)
def term_id(term: str) -> int:
    """The dimension of a term: the same in every run and every version of Python."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "little")


def word_vectors(rows: TermRows, average: float) -> RaggedRows:
    """Texts as sparse vectors, where texts have `average` words on average."""
    counts = rows.rows
    parts = np.repeat(length_parts(rows.lengths, average), counts.lengths)
    numbers = np.array([term_id(term) for term in rows.vocabulary], np.uint64)
    wordless = np.flatnonzero(counts.lengths == 0)
    texts = np.concatenate([np.repeat(np.arange(len(counts)), counts.lengths), wordless]).astype(np.uint64)
    dimensions = np.concatenate([numbers[counts.keys], np.full(len(wordless), term_id(_NO_TERM), np.uint64)])
    values = np.concatenate([saturated(counts.values, parts), np.full(len(wordless), _NEXT_TO_NOTHING)])
    # Row and dimension as one number: those that are equal are two terms of one hash.
    pairs, places = np.unique((texts << np.uint64(32)) | dimensions, return_inverse=True)
    return RaggedRows.of(
        np.bincount((pairs >> np.uint64(32)).astype(np.int64), minlength=len(counts)),
        (pairs & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        np.bincount(places, weights=values, minlength=len(pairs)).astype(np.float32),
    )


def settled_average(words: int, rows: int, before: object) -> float:
    """How many words a text has on average: as the export before has it, if that is near enough."""
    average = words / max(1, rows)
    if isinstance(before, float) and abs(before - average) <= AVERAGE_TOLERANCE * average:
        return before
    return average


def shared_dimensions(source: Source, name: str) -> tuple[int, int]:
    """How many terms a member's texts have, and how many of these share their dimension with another."""
    terms: set[str] = set()
    for at in source.shards:
        rows = source.entries(name, *at)
        assert isinstance(rows, TermRows)
        terms.update(rows.vocabulary)
    numbers = np.fromiter(map(term_id, terms), np.uint32, len(terms))
    _, counts = np.unique(numbers, return_counts=True)
    return len(terms), int(counts[counts > 1].sum())
