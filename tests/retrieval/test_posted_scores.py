"""Scores from postings are those of bm25s on the same words, and those of a dense product for sparse vectors."""

from __future__ import annotations

from collections import Counter

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.term_rows import term_rows

from soloist.ragged import RaggedRows
from soloist.retrieval.posted_scores import SparseScores, WordScores, best_rows, summed
from soloist.stores.index_reading import InvertedIndex
from soloist.stores.index_writing import write_index

TEXTS = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=12), min_size=1, max_size=12)


def tolerance(words):
    """bm25s rounds to float32 a weight, a frequency, their product, what the frequency is divided by, and each sum.

    Each rounding is off by 2^-24 of what is rounded, and all are above 0. Ours are in float64.
    """
    return (8 + len(words)) * 2.0**-24


def index_of(folder, rows):
    """The index of one collection."""
    write_index(folder / "index", lambda: [rows])
    return InvertedIndex.open(folder / "index")


def words_index(tmp_path_factory, texts):
    """The index of texts that are lists of words."""
    return index_of(tmp_path_factory.mktemp("words"), term_rows([Counter(text) for text in texts]))


def by_bm25s(texts, question):
    """bm25s's own scores of the same words."""
    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    return index.get_scores([word for word in question if word in index.vocab_dict])


@settings(max_examples=40)
@given(TEXTS.filter(any), st.lists(st.sampled_from("abcdefgx"), min_size=1, max_size=6))
def test_scores_are_those_of_bm25s(tmp_path_factory, texts, question):
    """The weight of a word, of a length or of a repeated word would be another one."""
    scores = WordScores([words_index(tmp_path_factory, texts)])
    mine = summed(scores.terms(Counter(question)), scores.rows)
    if set(question) & {word for text in texts for word in text}:
        assert mine == pytest.approx(by_bm25s(texts, question), rel=tolerance(question), abs=0)
    else:
        assert not mine.any()


@settings(max_examples=20)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(st.sampled_from("abc"), min_size=1, max_size=3))
def test_some_collections_score_as_a_run_of_these_alone(tmp_path_factory, collections, question):
    """Statistics of another collection would weigh the words, or the rows of two collections be confused."""
    several = WordScores([words_index(tmp_path_factory, texts) for texts in collections])
    one = WordScores([words_index(tmp_path_factory, [text for texts in collections for text in texts])])
    asked = Counter(question)
    assert several.rows == one.rows
    assert summed(several.terms(asked), several.rows).tolist() == summed(one.terms(asked), one.rows).tolist()


def test_sparse_scores_are_the_dense_product(tmp_path):
    """A dimension would be missed, or weighed by another one's value."""
    random = np.random.default_rng(0)
    dense = random.random((40, 60), np.float32) * (random.random((40, 60)) < 0.2)
    rows = [np.flatnonzero(row) for row in dense]
    keys = np.concatenate(rows).astype(np.uint32)
    ragged = RaggedRows.of([len(row) for row in rows], keys, dense[dense > 0])
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first, second = ragged.take(range(15)), ragged.take(range(15, 40))
    scores = SparseScores([index_of(tmp_path / "a", first), index_of(tmp_path / "b", second)])
    question = np.where(random.random(70) < 0.3, random.random(70, np.float32), 0)
    dimensions = np.flatnonzero(question).astype(np.uint32)
    mine = summed(scores.terms(dimensions, question[dimensions].astype(np.float32)), 40)
    wanted = dense.astype(np.float64) @ question[:60].astype(np.float32).astype(np.float64)
    assert mine == pytest.approx(wanted, rel=1e-12, abs=1e-12)  # the same products, added in another order


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 8))
def test_the_best_rows_are_the_first_of_the_highest(scores, k):
    """Rows of equal scores would change places with k, or a row without a word be a hit."""
    given_ = np.array(scores, np.float64)
    rows, values = best_rows(given_, k)
    wanted = sorted((row for row in range(len(scores)) if scores[row]), key=lambda row: (-scores[row], row))[:k]
    assert rows.tolist() == wanted and values.tolist() == [scores[row] for row in wanted]
