"""The inverted index of a collection: what is written is what the rows say, whatever the shards, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from support.term_rows import term_rows

from soloist.errors import OutputError
from soloist.ragged import RaggedRows, TermRows
from soloist.stores.index_reading import InvertedIndex
from soloist.stores.index_writing import write_index

WORDS = st.dictionaries(
    st.sampled_from(["a", "ab", "b", "é", "日本", "𝄞", "\ue000"]), st.integers(1, 70_000), max_size=5
)
SHARDS = st.lists(st.lists(WORDS, max_size=6), max_size=4)


def indexed(path, shards, **options):
    """The index of these shards."""
    write_index(path / "index.safetensors", lambda: iter(shards), **options)
    return InvertedIndex.open(path / "index.safetensors")


def found(index):
    """Every word with its rows and counts, as the index finds them."""
    terms = [index._term(number).decode() for number in range(index.terms)]
    assert [index.find(term) for term in terms] == list(range(index.terms))
    postings = [index.postings(number) for number in range(index.terms)]
    return {
        term: list(zip(some.rows.tolist(), some.values.tolist(), strict=True))
        for term, some in zip(terms, postings, strict=True)
    }


@settings(max_examples=40)
@given(SHARDS, st.integers(1, 9))
def test_every_word_is_found_where_it_is(tmp_path_factory, shards, part_postings):
    """A word would be missed, or its rows and counts be those of another one, if postings do not fit in one part."""
    made = indexed(
        tmp_path_factory.mktemp("index"), [term_rows(shard) for shard in shards], part_postings=part_postings
    )
    rows = [row for shard in shards for row in shard]
    wanted = {
        word: [(number, row[word]) for number, row in enumerate(rows) if word in row]
        for word in sorted({word for row in rows for word in row})
    }
    if not shards:
        assert made.rows == 0
        return
    assert list(found(made)) == list(wanted) and found(made) == wanted
    assert made.lengths.tolist() == [sum(row.values()) for row in rows]
    assert (made.rows, made.words) == (len(rows), sum(sum(row.values()) for row in rows))
    assert made.find("absent") is None and made.find("") is None and not len(made.postings(None).rows)


@settings(max_examples=25)
@given(st.lists(st.lists(st.dictionaries(st.integers(0, 40), st.floats(0.125, 8, width=16), max_size=5), max_size=4)))
def test_every_value_of_a_sparse_vector_is_found(tmp_path_factory, shards):
    """A value would be lost or rounded."""
    parts = [
        RaggedRows.of(
            [len(row) for row in shard],
            np.array([key for row in shard for key in sorted(row)], np.uint32),
            np.array([row[key] for row in shard for key in sorted(row)], np.float16),
        )
        for shard in shards
    ]
    made = indexed(tmp_path_factory.mktemp("index"), parts, part_postings=3)
    rows = [row for shard in shards for row in shard]
    for dimension in range(50):
        some = made.postings(dimension)
        assert dict(zip(some.rows.tolist(), some.values.tolist(), strict=True)) == {
            number: row[dimension] for number, row in enumerate(rows) if dimension in row
        }


def test_the_bytes_follow_from_the_rows_alone(tmp_path):
    """A run that was stopped and went on with other shards would differ from one that was not."""
    rows = [{"one": 1, "two": 2}, {}, {"two": 70_000, "three": 1}, {"one": 1}]
    write_index(tmp_path / "a", lambda: [term_rows(rows)])
    write_index(
        tmp_path / "b", lambda: [term_rows(rows[3:] + rows[:1]).take([1]), term_rows(rows[1:])], part_postings=1
    )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_safetensors_reads_the_file(tmp_path):
    """Nobody else could read what the run has."""
    made = indexed(tmp_path, [term_rows([{"b": 1, "a": 2}, {"b": 3}])])
    read = load_file(tmp_path / "index.safetensors")
    assert {name: array.tolist() for name, array in read.items()} == {
        name: array.tolist() for name, array in made.arrays.items()
    }
    assert read["rows"].tolist() == [0, 0, 1] and read["values"].tolist() == [2, 1, 3]
    assert bytes(read["term_bytes"]) == b"ab" and read["values"].dtype == np.uint16


@pytest.mark.parametrize("harm", ["cut", "empty", "text"])
def test_a_damaged_file_is_a_sentence(tmp_path, harm):
    """numpy's error would be shown, or words of the missing part would not be found."""
    indexed(tmp_path, [term_rows([{"b": 1, "a": 2}, {"b": 3}])])
    file = tmp_path / "index.safetensors"
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-1], "empty": b"", "text": b"hello, world"}[harm])
    with pytest.raises(OutputError, match=r"index\.safetensors cannot be read"):
        InvertedIndex.open(file)
    file.unlink()
    with pytest.raises(OutputError, match="is missing"):
        InvertedIndex.open(file)


def test_rows_that_are_not_there_are_damage(tmp_path):
    """A search would end in a traceback."""
    made = indexed(tmp_path, [term_rows([{"a": 1}, {"a": 1}])])
    content = bytearray((tmp_path / "index.safetensors").read_bytes())
    at = content.rfind(np.array([0, 1], "<u4").tobytes())
    content[at + 4 : at + 8] = np.array([7], "<u4").tobytes()
    (tmp_path / "index.safetensors").write_bytes(content)
    assert made.rows == 2
    with pytest.raises(OutputError, match="is damaged"):
        InvertedIndex.open(tmp_path / "index.safetensors").postings(0)


def test_rows_that_change_meanwhile_are_refused(tmp_path):
    """The index would be a mixture of two states of a collection."""
    given = iter([[term_rows([{"a": 1}])], [term_rows([{"b": 1}])]])
    with pytest.raises(ValueError, match="changed while they were indexed"):
        write_index(tmp_path / "index", lambda: next(given))
    assert not list(tmp_path.iterdir())


def test_rows_without_words(tmp_path):
    """A collection without one word would end in an error."""
    made = indexed(tmp_path, [TermRows(vocabulary=(), rows=RaggedRows.empty(3, np.uint32))])
    assert (made.rows, made.terms, made.words, made.find("a")) == (3, 0, 0, None)
