"""Ids are unique within a collection, and a second one is told with both places."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.errors import DuplicateIdError, InputError, RunStoppedError
from soloist.sources import DuplicateIds
from soloist.types import Place


def test_the_error_names_the_id_and_both_places() -> None:
    """The user could not find the two chunks."""
    duplicates = DuplicateIds()
    duplicates.check("x", Place(file=Path("a.json"), index=0))
    duplicates.check("y", Place(file=Path("a.json"), index=7))
    duplicates.check("z", Place(file=Path("b.json"), index=0))
    with pytest.raises(DuplicateIdError) as caught:
        duplicates.check("y", Place(file=Path("b.json"), index=3))
    assert str(caught.value) == (
        "two chunks have the same id 'y', a.json (chunk 7) and b.json (chunk 3): "
        "give each chunk its own id, or name the field with the ids in --id-field"
    )


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=3), max_size=60))
def test_only_an_id_that_was_there_is_refused(ids: list[str]) -> None:
    """A duplicate would pass, or a new id be refused."""
    duplicates = DuplicateIds()
    first: dict[str, int] = {}
    for index, id_ in enumerate(ids):
        place = Place(file=Path("a.json"), index=index)
        if id_ in first:
            with pytest.raises(DuplicateIdError, match=rf"\(chunk {first[id_]}\) and a\.json \(chunk {index}\)"):
                duplicates.check(id_, place)
        else:
            duplicates.check(id_, place)
            first[id_] = index


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=2), max_size=60), st.integers(1, 9))
def test_ids_that_are_checked_together_are_refused_as_one_by_one(ids: list[str], together: int) -> None:
    """Two chunks with one id would pass if they are checked together, or the error would name wrong places."""
    one_by_one, at_once = DuplicateIds(), DuplicateIds()

    def all_at_once() -> None:
        with at_once:
            for index, id_ in enumerate(ids):
                at_once.add(id_, Place(file=Path(f"{index % 3}.json"), index=index))
                if index % together == together - 1:
                    at_once.check_added()

    try:
        for index, id_ in enumerate(ids):
            one_by_one.check(id_, Place(file=Path(f"{index % 3}.json"), index=index))
    except DuplicateIdError as exc:
        with pytest.raises(DuplicateIdError, match=f"^{re.escape(str(exc))}$"):
            all_at_once()
    else:
        all_at_once()


def test_of_two_faults_the_first_is_told() -> None:
    """A fault that comes later in the file would hide a chunk with the id of another one."""
    place = Place(file=Path("a.json"), index=0)
    with pytest.raises(DuplicateIdError), DuplicateIds() as duplicates:
        duplicates.add("x", place)
        duplicates.add("x", place)
        raise InputError("a later one")


@pytest.mark.parametrize("end", [KeyboardInterrupt, RunStoppedError])
def test_a_stop_is_told_as_a_stop(end: type[BaseException]) -> None:
    """A stop would be told as a fault of the input, because the ids are checked at the end."""
    place = Place(file=Path("a.json"), index=0)
    with pytest.raises(end), DuplicateIds() as duplicates:
        duplicates.add("x", place)
        duplicates.add("x", place)
        raise end


def test_ids_are_found_again_after_the_table_has_grown() -> None:
    """An id that is moved to a grown table, and its place, would be lost."""
    duplicates = DuplicateIds()
    count = 40_000
    for n in range(count):
        duplicates.check(str(n), Place(file=Path(f"{n // 10_000}.json"), index=n % 10_000))
    for n in range(0, count, 17):
        place = Place(file=Path("again.json"), index=n)
        with pytest.raises(DuplicateIdError, match=rf"', {n // 10_000}\.json \(chunk {n % 10_000}\) and again"):
            duplicates.check(str(n), place)


def test_an_id_costs_less_than_fifty_bytes() -> None:
    """Ten million chunks would need gigabytes for their ids alone."""
    count = (1 << 16) + 1  # just grown: the worst moment
    place = Place(file=Path("a.json"), index=0)
    tracemalloc.start()
    try:
        duplicates = DuplicateIds()
        for n in range(count):
            duplicates.check(f"chunk-{n}", place)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / count < 50
