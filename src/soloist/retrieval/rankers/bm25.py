"""By BM25, which compares words and needs no model: a baseline that vectors should beat.

By bm25s: Lucene's variant, English stop words, no stemming. The words of all chunks are in memory from the first
ranking on, as long as the ranker is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from soloist.broken_imports import load_optional
from soloist.errors import InputError
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankings import Rankings


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
        return Bm25Index([chunk.text for chunk in self._corpus.chunks()])


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One; weights are of models, and it has none.

    Raises:
        ConfigError: bm25s is not installed.
    """
    _require_bm25s()
    yield Bm25(corpus)


class Bm25Index:
    """The words of texts, indexed once for all queries.

    Raises:
        InputError: no text has a word.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._bm25s = _require_bm25s()
        self._index = self._bm25s.BM25()
        self._rows = len(texts)
        words = self._bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
        if not any(words.ids):
            raise InputError("no chunk has a word that BM25 counts")
        self._index.index(words, show_progress=False)

    def rankings(self, queries: Sequence[str], k: int) -> Rankings:
        """Up to `k` texts for each query: those that share a word with it. BM25 says nothing of the others."""
        words = self._bm25s.tokenize(list(queries), stopwords="en", show_progress=False, return_ids=False)
        positions, scores = self._index.retrieve(words, k=min(k, self._rows), show_progress=False)
        return Rankings(
            positions=[row[values > 0].astype(np.int64) for row, values in zip(positions, scores, strict=True)],
            scores=[values[values > 0].astype(np.float64) for values in scores],
        )


def _require_bm25s() -> Any:
    otherwise = ", or leave BM25 out with --no-bm25"
    return load_optional("bm25s", what="BM25", package="bm25s", extra="eval", otherwise=otherwise)
