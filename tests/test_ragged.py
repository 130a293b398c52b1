"""Rows of different lengths: what a row has, rows taken and joined, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from support.term_rows import term_rows

from soloist.ragged import RaggedRows, TermRows

_ROWS = [[(3, 0.5), (9, 2.0)], [], [(0, 1.0)], [(1, 0.25), (2, 0.75), (9, 4.0)]]


def _rows(rows: list[list[tuple[int, float]]]) -> RaggedRows:
    entries = [entry for row in rows for entry in row]
    keys = np.array([key for key, _ in entries], np.uint32)
    return RaggedRows.of([len(row) for row in rows], keys, np.array([value for _, value in entries], np.float32))


def _plain(rows: RaggedRows) -> list[list[tuple[int, float]]]:
    return [list(zip(keys.tolist(), values.tolist(), strict=True)) for keys, values in rows]


def test_rows_are_taken_in_any_order() -> None:
    """An entry of a neighbour that comes along, or an empty row that is lost."""
    assert _plain(_rows(_ROWS).take([3, 1, 1, 0])) == [_ROWS[3], [], [], _ROWS[0]]
    assert _plain(_rows(_ROWS).take([])) == []


def test_rows_are_joined() -> None:
    """Starts of the second part that still count from its own beginning."""
    joined = RaggedRows.joined([_rows(_ROWS[:2]), RaggedRows.empty(1, np.float32), _rows(_ROWS[2:])])
    assert _plain(joined) == [*_ROWS[:2], [], *_ROWS[2:]]
    assert len(joined) == 5
    assert joined.nbytes == 6 * 8 + 6 * 4 + 6 * 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([(3, 1.0), (3, 1.0)], "ascending"),
        ([(9, 1.0), (3, 1.0)], "ascending"),
        ([(3, 0.0)], "above 0"),
        ([(3, -1.0)], "above 0"),
        ([(3, float("nan"))], "above 0"),
        ([(3, float("inf"))], "not finite"),
    ],
)
def test_an_unsound_row_is_refused(row: list[tuple[int, float]], said: str) -> None:
    """A damaged file that is ranked as if it were whole."""
    with pytest.raises(ValueError, match=said):
        _rows([[(7, 1.0)], row]).require_sound()


def test_sound_rows_pass() -> None:
    """The first key of a row compared with the last key of the row before it."""
    _rows(_ROWS).require_sound()
    _rows([]).require_sound()


@pytest.mark.parametrize("starts", [[0, 2], [1, 3], [0, 5]])
def test_starts_that_leave_entries_out_are_refused(starts: list[int]) -> None:
    """Entries that no row has, or rows that reach beyond the entries."""
    with pytest.raises(ValueError, match="starts"):
        RaggedRows(starts=np.array(starts), keys=np.zeros(3, np.uint32), values=np.ones(3, np.float32))


def test_terms_come_in_the_order_of_their_bytes() -> None:
    """A vocabulary in the order of first use, in which no binary search finds a term."""
    rows = term_rows([{"zebra": 2, "apple": 1}, {}, {"émigré": 1, "\U0001f600": 3, "apple": 4, "\uff5e": 1}])
    assert list(rows.vocabulary) == sorted(rows.vocabulary, key=str.encode)
    assert rows.terms(0) == [("apple", 1), ("zebra", 2)]
    assert rows.terms(1) == []
    assert rows.terms(2) == [("apple", 4), ("émigré", 1), ("\uff5e", 1), ("\U0001f600", 3)]
    assert rows.lengths.tolist() == [3, 0, 9]
    assert rows.take([2, 0]).terms(1) == rows.terms(0)
    rows.rows.require_sound()


def test_a_key_outside_the_vocabulary_is_refused() -> None:
    """A position that would raise IndexError where the term is looked up."""
    one = RaggedRows.of([1], np.array([1], np.uint32), np.array([1], np.uint32))
    with pytest.raises(ValueError, match="1 terms"):
        TermRows(vocabulary=("a",), rows=one)


def test_a_row_of_zeros_has_no_length_to_divide_by():
    """float16 rounds the smallest weights to 0: 0 divided by 0 would be the score of such a chunk."""
    rows = RaggedRows.of(np.array([2, 1, 0]), np.array([1, 2, 5], np.uint32), np.array([3, 4, 0], np.float16))
    assert rows.of_length_one().values.tolist() == pytest.approx([0.6, 0.8, 0.0])
