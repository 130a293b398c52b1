"""Which iterators are remembered, by identity and for how long."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pandas
import pytest

from soloist.sources.given_items import may_be_empty
from soloist.sources.read_once import forget_begun, is_read_once, note_begun, was_begun


@pytest.mark.parametrize("make", [lambda: (n for n in range(3)), lambda: map(str, range(3)), lambda: iter([1, 2, 3])])
def test_an_iterator_is_known_until_its_run_is_finished(make):
    """Another iterator of equal items was refused, or one whose run was finished was held for ever."""
    begun, other = make(), make()
    note_begun(begun)
    note_begun(begun)
    assert was_begun(begun) and not was_begun(other)
    forget_begun(begun)
    forget_begun(other)
    assert not was_begun(begun)


def test_a_generator_that_nobody_has_is_let_go():
    """What its frame holds, a table perhaps, stayed in memory until the process ended."""

    def rows():
        yield from range(3)

    begun = rows()
    next(begun)
    note_begun(begun)
    gone = weakref.ref(begun)
    del begun
    gc.collect()
    assert gone() is None


class Rows:
    """An iterable that makes its items anew each time, and does not say how many."""

    def __iter__(self):
        return iter(())


def test_only_what_says_so_is_empty():
    """No items of a generator meant that its collection was to go."""
    assert all(may_be_empty(given) for given in ([], (), np.array([]), pandas.DataFrame({"text": []})))
    assert not any(may_be_empty(given) for given in (iter([]), map(str, []), Rows()))
    assert not any(is_read_once(given) for given in ([], Rows(), None, "text", {}))
