"""Weighted sums of standardised scores: exact, in the order of the rows, and the same whatever is asked beside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from soloist.retrieval import member_scores
from soloist.retrieval.exact import DamagedRowError
from soloist.retrieval.member_scores import MemberScores, QuestionScores, dense_scores
from soloist.retrieval.posted_scores import TermScores


def unit(random, rows, dim):
    """Random unit rows."""
    made = random.standard_normal((rows, dim)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def scored(vectors, questions, block_rows=7):
    """The scores of each question by members whose vectors of the rows these are."""
    rows = len(next(iter(vectors.values())))

    def blocks():
        for start in range(0, rows, block_rows):
            yield tuple(part[start : start + block_rows] for part in vectors.values())

    return list(dense_scores(questions, rows, blocks, lambda name, some: vectors[name][some]))


def standardised(scores):
    """Multiples of the standard deviation; 0 where all are alike."""
    deviation = scores.std()
    return (scores - scores.mean()) / deviation if deviation > 1e-6 else np.zeros(len(scores))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40))
@example(7, 4, 1)  # scores that hardly differ
def test_the_best_are_those_of_the_sums_in_float64(seed, rows, k):
    """A row would be missed that float32 puts behind another one, or the scores be others than those that rank."""
    random = np.random.default_rng(seed)
    vectors = {name: unit(random, rows, dim) for name, dim in (("a", 8), ("b", 24))}
    vectors["a"][rows // 2 :] = vectors["a"][: rows - rows // 2]  # equal rows
    questions = {name: unit(random, 3, part.shape[1]) for name, part in vectors.items()}
    found = np.unique(random.integers(0, rows, 5))
    words = TermScores(term="w", rows=found, scores=random.random(len(found)) * 9)
    weights = {"a": 0.5, "b": 0.2, "bm25": 0.3}
    for number, members in enumerate(scored(vectors, questions)):
        posted = MemberScores.of_terms([words], rows)
        ((best, sums),) = QuestionScores(members={**members, "bm25": posted}).best([weights], min(k, rows))
        wanted, near = 0.3 * standardised(posted.quick), 2e-5
        for name in vectors:
            wide = vectors[name].astype(np.float64) * questions[name][number].astype(np.float64)
            wanted += weights[name] * standardised(wide.sum(axis=1))
            # Deviations are those of float32 scores: the smaller a deviation, the more their rounding weighs.
            near += 4 * weights[name] * members[name].tolerance / max(wide.sum(axis=1).std(), 1e-6)
        assert sums == pytest.approx(np.sort(wanted)[::-1][:k], abs=near)
        assert wanted[best] == pytest.approx(sums, abs=near)
        assert all(
            before != after or first < second
            for before, after, first, second in zip(sums, sums[1:], best, best[1:], strict=False)
        )


def test_a_question_has_the_same_scores_alone_and_among_others(monkeypatch):
    """`search` would rank otherwise than `eval`, which asks all questions at once."""
    random = np.random.default_rng(1)
    vectors, questions = {"a": unit(random, 3_000, 96)}, {"a": unit(random, 9, 96)}
    together = scored(vectors, questions, block_rows=1_024)
    monkeypatch.setattr(member_scores, "_PASS_BYTES", 4 * 3_000 * 2)  # two questions in a pass
    apart = scored(vectors, questions, block_rows=1_024)
    alone = [scored(vectors, {"a": questions["a"][[number]]}, block_rows=1_024)[0] for number in range(9)]
    for number in range(9):
        first = together[number]["a"].quick
        assert np.array_equal(first, apart[number]["a"].quick) and np.array_equal(first, alone[number]["a"].quick)


def test_a_rank_counts_the_rows_before():
    """Two rows of equal scores would both be first, or a near one be counted by its rounding."""
    random = np.random.default_rng(2)
    vectors = {"a": unit(random, 50, 16)}
    vectors["a"][7] = vectors["a"][30]
    (members,) = scored(vectors, {"a": vectors["a"][[30]]})
    assert [members["a"].rank(row) for row in (7, 30)] == [1, 2]
    order = np.argsort(-(vectors["a"].astype(np.float64) @ vectors["a"][30].astype(np.float64)), kind="stable")
    assert [members["a"].rank(int(row)) for row in order[2:]] == list(range(3, 51))


def test_a_member_that_says_the_same_of_all_has_no_part():
    """Its rounding would be blown up to a score: 0 divided by nearly 0."""
    words = MemberScores.of_terms([TermScores(term="w", rows=np.array([2]), scores=np.array([1.0]))], 4)
    flat = MemberScores(quick=np.full(4, 0.5, np.float32), tolerance=1e-7, exact=lambda rows: np.full(len(rows), 0.5))
    ((best, sums),) = QuestionScores(members={"a": flat, "w": words}).best([{"a": 0.9, "w": 0.1}], 4)
    assert best.tolist() == [2, 0, 1, 3] and np.isfinite(sums).all()
    ((best, sums),) = QuestionScores(members={"a": flat}).best([{"a": 1.0}], 2)
    assert best.tolist() == [0, 1] and sums.tolist() == [0, 0]


def test_words_that_are_alike_in_all_rows_have_no_part():
    """The deviation of .1, .1 and .1 is not 0 by its rounding, and the digits of the vectors were lost beside it."""
    alike = TermScores(term="w", rows=np.arange(3), scores=np.full(3, 0.1))
    dense = np.array([0.1, 0.5, 0.3])
    vectors = MemberScores(quick=dense, tolerance=0.0, exact=lambda rows: dense[rows])
    members = {"a": vectors, "w": MemberScores.of_terms([alike], 3)}
    ((best, sums),) = QuestionScores(members=members).best([{"a": 0.7, "w": 0.3}], 3)
    assert best.tolist() == [1, 2, 0]
    assert sums == pytest.approx(0.7 * (np.array([0.5, 0.3, 0.1]) - 0.3) / dense.std())


def test_without_a_weight_of_vectors_only_rows_with_a_word_are_found():
    """A question of unknown words had the first chunks of the run as its answer."""
    random = np.random.default_rng(5)
    (members,) = scored({"a": unit(random, 6, 8)}, {"a": unit(random, 1, 8)})
    word = TermScores(term="w", rows=np.array([1, 4]), scores=np.array([1e-9, 2e-9]))
    known = QuestionScores(members={**members, "w": MemberScores.of_terms([word], 6)})
    unknown = QuestionScores(members={**members, "w": MemberScores.of_terms([], 6)})
    assert [len(best) for best, _ in known.best([{"a": 0.5, "w": 0.5}], 4)] == [4]
    assert [best.tolist() for best, _ in known.best([{"a": 0.0, "w": 1.0}, {"w": 0.3}], 4)] == [[4, 1], [4, 1]]
    assert [best.tolist() for best, _ in unknown.best([{"a": 0.0, "w": 1.0}, {"w": 0.3}], 4)] == [[], []]


@pytest.mark.parametrize("value", [np.nan, np.inf, 9.0])
def test_a_damaged_row_is_named(value):
    """Its chunk would be missing from every answer, or be the first of all."""
    random = np.random.default_rng(3)
    vectors = {"a": unit(random, 20, 8), "b": unit(random, 20, 8)}
    vectors["b"][13] = value
    with pytest.raises(DamagedRowError) as caught:
        scored(vectors, {name: unit(random, 2, 8) + np.float32(0.1) for name in vectors})
    assert (caught.value.position, caught.value.model) == (13, 1)


def test_words_that_say_the_same_of_every_row_rank_nothing():
    """The mean of equal scores is rounded: their deviation of 1e-17 left nothing of what the other member says."""
    words = TermScores(term="w", rows=np.arange(3), scores=np.full(3, 0.1))
    dense = np.array([0.1, 0.3, 0.2])
    other = MemberScores(quick=dense, tolerance=0.0, exact=lambda rows: dense[rows])
    scores = QuestionScores(members={"bm25": MemberScores.of_terms([words], 3), "dense": other})
    ((best, _),) = scores.best([{"bm25": 0.5, "dense": 0.5}], 3)
    assert best.tolist() == [1, 2, 0]
