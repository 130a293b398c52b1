"""Scores of words and of sparse vectors, made from the postings of a question's terms alone. Pure: knows numpy alone.

Words are scored by BM25 as bm25s has it for Lucene's variant (Kamphuis and others, 2020): for each word of the question

    log(1 + (N - n + .5) / (n + .5)) * f / (f + 1.5 * (.25 + .75 * l / L))

where n of N chunks have the word, this chunk has it f times and has l words, and a chunk has L words on average. A word
that is twice in a question counts twice. Sparse vectors are scored by their dot product with the question's.

N, n and L are sums over the collections that are searched, so some collections score as a run of these alone would.
Sums are in float64 and in the order of the terms: a score is the same whatever is asked at the same time.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.retrieval.rankings import Rankings
from soloist.stores.index_reading import InvertedIndex, Postings
from soloist.words.bm25 import length_parts

Scores = NDArray[np.float64]  # (rows), 0 where no term of the question is


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TermScores:
    """One term of a question: the rows that have it, and what it adds to the score of each."""

    term: str | int
    rows: NDArray[np.int64]
    scores: Scores


def summed(terms: Sequence[TermScores], rows: int) -> Scores:
    """The score of each of `rows` rows."""
    scores = np.zeros(rows)
    for term in terms:
        scores[term.rows] += term.scores  # no row is twice in a term
    return scores


def best_rows(scores: Scores, k: int) -> tuple[NDArray[np.int64], Scores]:
    """The `k` best of the rows with a score above 0, best first, and their scores. Equal rows are in their order."""
    rows = np.flatnonzero(scores)
    if len(rows) > k:
        found = scores[rows]
        rows = rows[found >= np.partition(found, -k)[-k]]
    order = np.lexsort((rows, -scores[rows]))[:k]
    return rows[order], scores[rows[order]]


class _Joined:
    """The indexes of some collections, one behind the other."""

    def __init__(self, indexes: Sequence[InvertedIndex]) -> None:
        self._indexes = indexes
        self._firsts = [0, *itertools.accumulate(index.rows for index in indexes)]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._firsts[-1]

    def _postings(self, terms: Sequence[int | None]) -> Iterator[tuple[int, Postings]]:
        """The postings of a term, whose number in each index is given, with the first row of their index."""
        for index, first, term in zip(self._indexes, self._firsts, terms, strict=False):
            postings = index.postings(term)
            if len(postings.rows):
                yield first, postings


class WordScores(_Joined):
    """BM25 over the words of all rows. A question is a mapping of its words to how often each is there."""

    def terms(self, question: Mapping[str, int]) -> list[TermScores]:
        """The words that a row has, in the order of the words."""
        return [found for word in sorted(question) if (found := self._term(word, question[word])) is not None]

    def rankings(self, questions: Iterable[Mapping[str, int]], k: int) -> Rankings:
        """The `k` best rows for each question: of those that share a word with it, which may be fewer."""
        found = [best_rows(summed(self.terms(question), self.rows), k) for question in questions]
        return Rankings(positions=[rows for rows, _ in found], scores=[scores for _, scores in found])

    def _term(self, word: str, count: int) -> TermScores | None:
        found = list(self._postings([index.find(word) for index in self._indexes]))
        frequency = sum(len(postings.rows) for _, postings in found)
        if not frequency:
            return None
        idf = count * math.log(1 + (self.rows - frequency + 0.5) / (frequency + 0.5))
        rows = np.concatenate([first + postings.rows.astype(np.int64) for first, postings in found])
        counts = np.concatenate([postings.values for _, postings in found]).astype(np.float64)
        return TermScores(term=word, rows=rows, scores=idf * counts / (counts + self._lengths[rows]))

    @functools.cached_property
    def _lengths(self) -> Scores:
        """What the length of each row adds to the denominator: 8 bytes a row, kept from the first question on."""
        lengths = np.concatenate([index.lengths for index in self._indexes])
        average = sum(index.words for index in self._indexes) / max(1, self.rows)
        return length_parts(lengths, average)


class SparseScores(_Joined):
    """The dot product with the sparse vectors of all rows. A question is its own: dimensions, and their values."""

    def terms(self, dimensions: NDArray[np.uint32], values: NDArray[np.float32]) -> list[TermScores]:
        """The dimensions that a row has, in their order."""
        found: list[TermScores] = []
        for dimension, value in sorted(zip(dimensions.tolist(), values.tolist(), strict=True)):
            some = list(self._postings([dimension] * len(self._indexes)))
            if some:
                rows = np.concatenate([first + postings.rows.astype(np.int64) for first, postings in some])
                weights = np.concatenate([postings.values for _, postings in some]).astype(np.float64)
                found.append(TermScores(term=dimension, rows=rows, scores=value * weights))
        return found
