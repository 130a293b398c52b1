"""BM25 as the floor that vectors should be above, by bm25s. Holds the words of all chunks in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.errors import ConfigError, InputError
from soloist.extras import install_command


def require_bm25() -> Any:
    """The library that ranks by words.

    Raises:
        ConfigError: bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError as exc:
        remedy = f"run {install_command('eval')}, or leave BM25 out with --no-bm25"
        raise ConfigError(f"BM25 needs bm25s: {remedy}") from exc
    return bm25s


def bm25_rankings(texts: Sequence[str], queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
    """The `k` best texts for each query by BM25 (Lucene's variant, English stop words, no stemming), best first.

    Only those that share a word with the query, which may be none: BM25 says nothing of the others.

    Raises:
        InputError: no text has a word.
    """
    bm25s = require_bm25()
    index = bm25s.BM25()
    words = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
    if not any(words.ids):
        raise InputError("no chunk has a word that BM25 counts")
    index.index(words, show_progress=False)
    asked = bm25s.tokenize(list(queries), stopwords="en", show_progress=False, return_ids=False)
    positions, scores = index.retrieve(asked, k=min(k, len(texts)), show_progress=False)
    return [row[worth > 0].astype(np.int64) for row, worth in zip(positions, scores, strict=True)]
