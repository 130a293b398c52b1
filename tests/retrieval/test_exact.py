"""Exact search is exact: the ranking of float64 scores, whatever the blocks and the company a question has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.unit_vectors import unit

from soloist.retrieval.exact import DamagedRowError, WeightedQueries, moments, search
from soloist.retrieval.rankers.reciprocal_ranks import reciprocal_ranks
from soloist.retrieval.rankings import Rankings


def blocks_of(parts, edges):
    return [[part[start:end] for part in parts] for start, end in itertools.pairwise(edges)]


def scored(questions, parts, weights):
    """Every score in float64, row by row."""
    return sum(
        weight * (part.astype(np.float64)[None] * asked.astype(np.float64)[:, None]).sum(axis=2)
        for weight, asked, part in zip(weights, questions, parts, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 5), st.integers(1, 12), st.data())
def test_the_ranking_is_that_of_all_float64_scores(seed, rows, queries, k, data):
    """A row near the last place would be lost where float32 puts it too low, or where a block ends."""
    rng = np.random.default_rng(seed)
    dims = data.draw(st.lists(st.integers(2, 9), min_size=1, max_size=3))
    weights = data.draw(st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), min_size=len(dims), max_size=len(dims)))
    parts = [unit(rng, rows, dim) for dim in dims]
    for part in parts:  # equal rows, and rows that differ in the last bits
        part[rng.integers(rows)] = part[0]
        part[rng.integers(rows)] = np.nextafter(part[0], np.float32(1))
    questions = [unit(rng, queries, dim) for dim in dims]
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    found = search(WeightedQueries.of(questions, weights), blocks_of(parts, [0, *cuts, rows]), k)
    scores = scored(questions, parts, weights)
    for query in range(queries):
        order = np.lexsort((np.arange(rows), -scores[query]))[: min(k, rows)]
        assert found.positions[query].tolist() == order.tolist()
        np.testing.assert_allclose(found.scores[query], scores[query][order], atol=1e-12)


def test_a_question_alone_finds_what_it_finds_among_others():
    """A search would show another ranking than the evaluation, which asks all at once, has scored."""
    rng = np.random.default_rng(1)
    part, questions = unit(rng, 3_000, 96), unit(rng, 40, 96)
    part[1_500:] = part[:1_500]  # every score is there twice
    together = search(WeightedQueries.of([questions]), [[part]], 50)
    for query in range(40):
        alone = search(
            WeightedQueries.of([questions[query : query + 1]]), blocks_of([part], list(range(0, 3_001, 100))), 50
        )
        assert np.array_equal(alone.positions[0], together.positions[query])
        assert np.array_equal(alone.scores[0], together.scores[query])


def test_near_ties_are_decided_by_float64():
    """Rows that differ in less than float32 resolves would be in the order of chance."""
    question = np.array([[1.0, 0.0]], np.float32)
    angles = np.linspace(0, 3e-4, 400)[::-1]
    part = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = search(WeightedQueries.of([question]), blocks_of([part], [0, 7, 150, 400]), 20)
    order = np.lexsort((np.arange(400), -part[:, 0].astype(np.float64)))[:20]
    assert found.positions[0].tolist() == order.tolist()


def test_scores_that_only_rise_do_not_fill_the_memory():
    """Every row is better than all before it: candidates would be as many as there are rows."""
    angles = np.linspace(1.5, 0.2, 20_000)
    part = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = search(
        WeightedQueries.of([np.array([[1.0, 0.0]], np.float32)]), blocks_of([part], list(range(0, 20_001, 50))), 3
    )
    assert found.positions[0].tolist() == [19_999, 19_998, 19_997]


def test_moments_are_those_of_all_scores():
    """A standardised score would be a multiple of something else."""
    rng = np.random.default_rng(2)
    parts, questions = [unit(rng, 500, 8), unit(rng, 500, 5)], [unit(rng, 3, 8), unit(rng, 3, 5)]
    mean, deviation = moments(WeightedQueries.of(questions, (1, 1)), blocks_of(parts, [0, 100, 500]))
    for model in range(2):
        scores = questions[model].astype(np.float64) @ parts[model].T.astype(np.float64)
        np.testing.assert_allclose(mean[:, model], scores.mean(axis=1), atol=1e-6)
        np.testing.assert_allclose(deviation[:, model], scores.std(axis=1), atol=1e-5)


def across(length):
    """Two questions, and three rows of which the second is at right angles to the first question and this long."""
    part = np.array([[1, 0, 0], [0, length, 0], [0, 0, 1]], np.float32)
    return WeightedQueries.of([np.eye(3, dtype=np.float32)[:2]]), part


@pytest.mark.parametrize("length", [3e30, 2.0])
def test_a_row_that_is_too_long_is_seen_by_whichever_question_it_answers(length):
    """Only the first question's scores were looked at: a row at right angles to it came first for all others."""
    question, part = across(length)
    with pytest.raises(DamagedRowError) as caught:
        search(question, blocks_of([part], [0, 1, 3]), 1)
    assert (caught.value.position, caught.value.model) == (1, 0)
    assert search(across(1.0)[0], [[across(1.0)[1]]], 1).positions[1].tolist() == [1]


@pytest.mark.parametrize("length", [3e30, 2.0, -2.0])
def test_a_row_that_is_too_long_is_in_no_mean(length):
    """One row made the deviation of all scores its own."""
    question, part = across(length)
    with pytest.raises(DamagedRowError) as caught:
        moments(question, blocks_of([part], [0, 1, 3]))
    assert (caught.value.position, caught.value.model) == (1, 0)


def test_reciprocal_ranks_by_hand():
    """A rank would count from 0, a weight be left out, or ties come in any order."""
    first = Rankings(positions=np.array([[4, 2, 9]]), scores=np.zeros((1, 3)))
    second = Rankings(positions=np.array([[2, 7, 4]]), scores=np.zeros((1, 3)))
    found = reciprocal_ranks([first, second], [1.0, 1.0], 10)
    expected = {4: 1 / 61 + 1 / 63, 2: 1 / 62 + 1 / 61, 7: 1 / 62, 9: 1 / 63}
    assert found.positions[0].tolist() == sorted(expected, key=lambda row: -expected[row])
    assert found.scores[0].tolist() == pytest.approx(sorted(expected.values(), reverse=True))
    even = reciprocal_ranks([first, Rankings(positions=np.array([[2, 4, 9]]), scores=np.zeros((1, 3)))], [1.0, 1.0], 2)
    assert even.positions[0].tolist() == [2, 4]
    assert reciprocal_ranks([first, second], [0.0, 1.0], 1).positions[0].tolist() == [2]
