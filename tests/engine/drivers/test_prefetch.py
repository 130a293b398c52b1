"""One item ahead, no more, in order, with errors in their places."""

from __future__ import annotations

import threading

import pytest

from soloist.engine.drivers.prefetch import Lookahead

PATIENCE_SECONDS = 10


def test_one_item_is_made_ahead_and_no_more():
    """Two ahead would hold two tokenized shards in memory beside the one on the devices; none ahead saves no time."""
    begun = [threading.Event() for _ in range(4)]

    def make(item: int) -> int:
        begun[item].set()
        return item * 10

    with Lookahead(make, range(4)) as ahead:
        made = iter(ahead)
        for item in range(3):
            assert next(made) == item * 10
            assert begun[item + 1].wait(PATIENCE_SECONDS)
            assert not any(event.is_set() for event in begun[item + 2 :])
        assert next(made) == 30
        assert next(made, None) is None


def test_an_error_comes_where_its_result_would_have_come():
    """Raised early it would cost the shard before it; swallowed it would cost its own."""

    def make(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    taken = []
    with pytest.raises(ValueError, match="the third"), Lookahead(make, range(5)) as ahead:
        for made in ahead:
            taken.append(made)
    assert taken == [0, 1]


def test_waiting_for_the_first_takes_until_it_is_made():
    """Returning at once would hold the devices while the first shard is tokenized."""
    may_finish, waited = threading.Event(), threading.Event()

    def make(item: int) -> int:
        assert may_finish.wait(PATIENCE_SECONDS)
        return item

    with Lookahead(make, [7]) as ahead:

        def wait() -> None:
            ahead.wait_for_first()
            waited.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not waited.wait(0.1)
        may_finish.set()
        assert waited.wait(PATIENCE_SECONDS)
        waiter.join()
        assert list(ahead) == [7]


def test_waiting_for_a_first_that_fails_or_does_not_exist_raises_nothing():
    """The error belongs to the iteration; no items are no error."""
    with Lookahead(lambda item: 1 // item, [0]) as ahead:
        ahead.wait_for_first()
        with pytest.raises(ZeroDivisionError):
            next(iter(ahead))
    with Lookahead(lambda item: item, []) as empty:
        empty.wait_for_first()
        assert list(empty) == []
