"""Properties of the batch plan, on which every equality of vectors rests."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from soloist.encoding.batching import bucket, halves, plan_batches, plan_unpadded, slices, within
from soloist.types import Batch

LENGTHS = st.lists(st.integers(min_value=0, max_value=9000), max_size=200)
BUDGETS = st.integers(min_value=1, max_value=20_000)


@given(st.integers(min_value=1, max_value=100_000))
def test_a_bucket_is_close_above_the_length(length):
    """A bucket below the length would cut text; one far above would compute padding."""
    padded = bucket(length)
    assert length <= padded <= max(length + 3, length * 17 / 16)
    assert bucket(padded) == padded


@given(st.integers(min_value=1, max_value=512))
def test_a_bucket_never_exceeds_the_models_limit(length):
    """Positions beyond the model's limit do not exist."""
    assert length <= bucket(length, 512) <= 512


@given(LENGTHS, BUDGETS)
def test_every_row_is_in_exactly_one_batch_within_the_budget(lengths, budget):
    """A row lost or doubled would shift every vector after it."""
    batches = plan_batches(lengths, within(budget))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert batch.padded_tokens <= budget or len(batch.rows) == 1
        assert all(bucket(lengths[row]) == batch.padded_length for row in batch.rows)
    sizes = [batch.padded_tokens for batch in batches]
    assert sizes == sorted(sizes, reverse=True)


@given(LENGTHS, BUDGETS, st.integers(min_value=0, max_value=199))
def test_a_rows_padded_length_does_not_depend_on_its_neighbours(lengths, budget, kept):
    """The heart of resumed == uninterrupted: with other neighbours, the same padding."""
    if kept >= len(lengths):
        return
    alone = plan_batches([lengths[kept]], within(budget))[0].padded_length
    together = next(batch for batch in plan_batches(lengths, within(budget)) if kept in batch.rows)
    assert together.padded_length == alone


@given(LENGTHS, BUDGETS)
def test_unpadded_batches_keep_the_order_and_the_budget(lengths, budget):
    """A static model needs no sorting; its batches must not lose rows either."""
    batches = plan_unpadded(lengths, within(budget))
    assert [row for batch in batches for row in batch.rows] == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[row] for row in batch.rows) <= budget or len(batch.rows) == 1


def test_halves_keep_the_padded_length():
    """Another padding after a split would give other bits than without it."""
    left, right = halves(Batch(rows=(3, 1, 4), padded_length=16))
    assert (left.rows, right.rows) == ((3,), (1, 4))
    assert left.padded_length == right.padded_length == 16


@given(st.lists(st.text(max_size=30), max_size=40), st.integers(min_value=1, max_value=100))
def test_texts_are_taken_in_order_in_as_few_pieces_as_fit(texts, characters):
    """A text would be lost between two pieces, or a tokenizer take more than it has memory for."""
    pieces = [list(piece) for piece in slices(texts, characters)]
    assert [text for piece in pieces for text in piece] == texts
    assert all(sum(map(len, piece)) <= characters or len(piece) == 1 for piece in pieces)
    for piece, following in itertools.pairwise(pieces):
        assert sum(map(len, piece)) + len(following[0]) > characters
