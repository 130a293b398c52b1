"""Sparse rows of dense numbers: what is not zero, in order, and nothing that no index of words can have."""

from __future__ import annotations

import numpy as np
import pytest

from soloist.encoding.found_rows import SparseRows, sparse_rows, tokens_of_words
from soloist.errors import EncodingError

NUMBERS = np.array([[0, 2, 0, 3, 1], [0, 0, 0, 0, 0], [4, 0, 4, 0, 4]], np.float32)


def dense(rows, width=5):
    """The rows with their zeros."""
    made = np.zeros((len(rows), width), np.float32)
    for number, (keys, values) in enumerate(rows):
        made[number, keys] = values
    return made


def test_only_zeros_are_left_out():
    """A text that has a weight for no word is a row without entries, and not an error."""
    found = sparse_rows(NUMBERS, None, "splade")
    found.require_sound()
    assert found.lengths.tolist() == [3, 0, 3]
    assert np.array_equal(dense(found), NUMBERS)


def test_of_many_words_the_largest_stay():
    """Catches a cut that keeps the first words, or leaves it to chance which of equal weights stay."""
    found = sparse_rows(NUMBERS, 2, "splade")
    found.require_sound()
    assert np.array_equal(dense(found), [[0, 2, 0, 3, 0], [0, 0, 0, 0, 0], [4, 0, 4, 0, 0]])
    assert np.array_equal(dense(sparse_rows(NUMBERS, 3, "splade")), NUMBERS)


def test_a_weight_below_zero_is_an_error():
    """Such a word would be found where the text speaks of something else."""
    with pytest.raises(EncodingError, match=r"splade gives a word a weight below zero"):
        sparse_rows(-NUMBERS, None, "splade")


def test_rows_come_in_any_order_and_some_are_computed_twice():
    """Devices end their batches when they end them, and rows with NaN are computed once more."""
    rows = SparseRows(5, None, "splade")
    broken = NUMBERS.copy()
    broken[0, 0] = np.nan
    rows.put((4, 1, 2), broken)
    rows.put((3,), np.full((1, 5), np.inf, np.float32))
    assert rows.unusable() == [3, 4]
    found = rows.finished([3, 4], np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 9]], np.float32))
    found.require_sound()
    assert np.array_equal(dense(found), [np.zeros(5), NUMBERS[1], NUMBERS[2], [1, 0, 0, 0, 0], [0, 0, 0, 0, 9]])
    assert len(SparseRows(0, None, "splade").finished([], None)) == 0


def test_the_hosts_workers_hold_no_more_than_their_share():
    """16 cores with 2,048 tokens and 250,002 words each would hold 65 GB."""
    assert tokens_of_words(30_522) * 30_522 * 8 <= 2**31
    assert tokens_of_words(2**40) == 1
