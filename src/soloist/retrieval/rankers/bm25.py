"""By BM25, which compares words and needs no model: a baseline for runs that have no lexical member of their own.

The words are those that a lexical member of the run's language would have. They are in memory until the index is
written, in a temporary folder.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from soloist.broken_imports import load_optional
from soloist.errors import InputError
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.posted_scores import WordScores
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankings import Rankings
from soloist.stores.index_reading import InvertedIndex
from soloist.stores.index_writing import write_index
from soloist.words import Analyser, analyser_of


class Bm25:
    """BM25 over the texts of the chunks."""

    name = "BM25"

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def cost(self) -> None:
        """It has no vectors."""

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The best of the rows that share a word with the query, which may be fewer than `k`."""
        return self._index.rankings(queries, k)

    @functools.cached_property
    def _index(self) -> Bm25Index:
        return Bm25Index(analyser_of(self._corpus.record.config.language), self._corpus.texts())


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One, if the run has no words of its own; weights are of models, and it has none.

    Raises:
        ConfigError: bm25s or PyStemmer is not installed.
    """
    if not corpus.record.words:
        for library, package in (("bm25s", "bm25s"), ("Stemmer", "PyStemmer")):
            otherwise = ", or leave BM25 out with --no-bm25"
            load_optional(library, what="BM25", package=package, extra="eval", otherwise=otherwise)
        yield Bm25(corpus)


class Bm25Index:
    """The words of texts, given in parts, and indexed once for all queries.

    Raises:
        InputError: no text has a word.
    """

    def __init__(self, analyser: Analyser, parts: Iterable[Sequence[str]]) -> None:
        self._analyser = analyser
        rows = [analyser.rows(texts) for texts in parts]
        if not any(len(some.rows.keys) for some in rows):
            raise InputError("no chunk has a word that BM25 counts")
        with tempfile.TemporaryDirectory() as folder:  # what is mapped is there until nobody needs it
            path = Path(folder) / "index.safetensors"
            write_index(path, lambda: rows)
            self._words = WordScores([InvertedIndex.open(path)])

    def rankings(self, queries: Sequence[str], k: int) -> Rankings:
        """Up to `k` texts for each query: those that share a word with it. BM25 says nothing of the others."""
        return self._words.rankings([Counter(self._analyser.terms(query)) for query in queries], k)
