"""The table of digests: many digests at once are found and added as one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from soloist.digests import DigestTable, digest_of_rows, shard_digest, text_digest

SIZES = (0, 1, 7, 600, 1500)


@given(st.lists(st.tuples(st.sampled_from(SIZES), st.integers(1, 3000)), max_size=6), st.randoms(use_true_random=False))
def test_many_at_once_are_added_as_one_by_one(blocks, generator):
    """A text would be embedded twice, or get the vector of another text, when the table grows or a block repeats it."""
    one_by_one, at_once = DigestTable(), DigestTable()
    for size, different in blocks:
        digests = [text_digest(str(generator.randrange(different))) for _ in range(size)]
        entries = [one_by_one.add(digest) for digest in digests]
        assert at_once.add_all(digests).tolist() == [-1 if entry is None else entry for entry in entries]
        assert len(at_once) == len(one_by_one)
        assert [at_once.find(digest) for digest in digests] == [one_by_one.find(digest) for digest in digests]


def test_a_block_that_is_larger_than_the_table_is_found_again():
    """A table that only doubles its slots would be too small for the block."""
    digests = [text_digest(str(number)) for number in range(5_000)]
    table = DigestTable()
    assert set(table.add_all(digests).tolist()) == {-1}
    assert table.add_all(digests[::-1]).tolist() == list(range(5_000))[::-1]


def test_digests_that_begin_alike_are_told_apart():
    """Two digests with the same first half would be taken for one: the first half only says where to look."""
    alike = [bytes(8) + bytes([number]) * 8 for number in range(40)]
    table = DigestTable()
    assert table.add_all(alike[:20]).tolist() == [-1] * 20
    assert table.add_all([*alike, alike[30]]).tolist() == [*range(20), *[-1] * 20, 30]


def test_the_digest_of_a_shard_is_that_of_its_rows():
    """A shard would count as changed, and its vectors would be computed again."""
    ids, texts = ["a", "b", "é"], ["one", "two", ""]
    digests = [text_digest(text) for text in texts]
    assert shard_digest(ids, digests) == digest_of_rows([text_digest(id_) for id_ in ids], digests)
    assert shard_digest(ids, digests) == "d36a895c415b983e31b466952975834a"
