"""Words as numbers, and how often each is in a text. Pure arithmetic: knows nothing of languages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.ragged import RaggedRows, TermRows


def blocks_of(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    """The texts, in order, so many together as have some number of characters. At least one block, of one text."""
    start = held = 0
    for end, text in enumerate(texts):
        held += len(text)
        if held >= characters:
            yield texts[start : end + 1]
            start, held = end + 1, 0
    if start < len(texts) or not texts:
        yield texts[start:]


def counted_terms(terms: Sequence[tuple[str, ...]], entries: NDArray[Any], lengths: NDArray[np.int64]) -> TermRows:
    """The terms of texts whose words are `entries`: each is the number of its terms in `terms`.

    `lengths` says how many words each text has.
    """
    vocabulary = sorted({term for each in terms for term in each})
    places = {term: place for place, term in enumerate(vocabulary)}
    keys = np.array([places[term] for each in terms for term in each], np.uint32)
    of_words = RaggedRows.of([len(each) for each in terms], keys, keys).take(entries)
    texts = np.repeat(np.repeat(np.arange(len(lengths)), lengths), of_words.lengths)
    return TermRows(vocabulary=tuple(vocabulary), rows=_summed(len(lengths), texts, of_words.keys, len(vocabulary)))


def joined_terms(parts: Sequence[TermRows]) -> TermRows:
    """The texts of all parts, in order, with one vocabulary."""
    if len(parts) == 1:
        return parts[0]
    vocabulary = sorted(set().union(*(part.vocabulary for part in parts)))
    places = {term: place for place, term in enumerate(vocabulary)}
    moved = []
    for part in parts:
        # Both vocabularies are sorted, so the keys of a row stay in ascending order.
        new = np.array([places[term] for term in part.vocabulary], np.uint32)
        moved.append(RaggedRows(starts=part.rows.starts, keys=new[part.rows.keys], values=part.rows.values))
    return TermRows(vocabulary=tuple(vocabulary), rows=RaggedRows.joined(moved))


def _summed(rows: int, texts: NDArray[np.int64], keys: NDArray[np.uint32], terms: int) -> RaggedRows:
    """One entry for each text and key that occur together, with how often they do."""
    pairs, counts = np.unique(texts * max(1, terms) + keys, return_counts=True)
    lengths = np.bincount(pairs // max(1, terms), minlength=rows)
    return RaggedRows.of(lengths, (pairs % max(1, terms)).astype(np.uint32), counts.astype(np.uint32))
