"""Where chunks were read, out of the stretches that are kept of it."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from soloist.sources import ReadPlaces
from soloist.types import Place


@given(
    files=st.lists(st.lists(st.integers(0, 30), min_size=1, unique=True).map(sorted), min_size=1, max_size=4),
    others=st.integers(0, 3),
)
def test_every_chunk_is_where_it_was_read(files, others):
    """The wrong line of a file in an error, behind a text that was skipped or in the file after it."""
    read = [Place(file=Path(f"{name}.jsonl"), index=index) for name, indices in enumerate(files) for index in indices]
    places = ReadPlaces()
    for number, place in enumerate(read):
        places.note("docs", place)
        if number < others:
            places.note("others", place)
    assert [places.of("docs", number) for number in range(len(read))] == read
    assert [places.of("others", number) for number in range(min(others, len(read)))] == read[:others]
