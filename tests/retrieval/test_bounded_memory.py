"""Questions without end: passes, resamples and tuning hold a part at a time, and find what all at once would find."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from support.three_models import MODELS
from support.unit_vectors import unit

from soloist.retrieval import By, open_run
from soloist.retrieval.exact import WeightedQueries, passes, search, search_all
from soloist.retrieval.identical_ids import HitFilter
from soloist.retrieval.metrics import RESAMPLES, difference, score
from soloist.retrieval.qrels import Qrels
from soloist.retrieval.rankers.reciprocal_ranks import reciprocal_ranks
from soloist.retrieval.tuning import grid, split, tune

MB = 10**6


def peak_of(work):
    """What a call returns, and the most memory that it held."""
    gc.collect()
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_interval_needs_the_same_memory_for_any_number_of_questions():
    """10,000 resamples of 10,000 questions were 1.6 GB; the interval is that of one draw of all resamples."""
    drawn = np.random.default_rng(1)
    one, other = drawn.random(2_500), drawn.random(2_500)
    found, peak = peak_of(lambda: difference(one, other, [f"{number}" for number in range(2_500)]))
    assert peak < 40 * MB
    whole = np.random.default_rng(0).integers(0, 2_500, (RESAMPLES, 2_500))
    means = (one - other)[whole].mean(axis=1)
    assert (found.low, found.high) == tuple(np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2]))


def test_a_pass_holds_so_many_questions_as_fit():
    """Scores of 8,000 questions over two models were 262 MB, and of 100,000 more than the machine has."""
    rng = np.random.default_rng(0)
    parts, asked = [unit(rng, 4_096, 3), unit(rng, 4_096, 2)], [unit(rng, 8_000, 3), unit(rng, 8_000, 2)]
    question = WeightedQueries.of(asked, (0.5, 0.5))
    found, peak = peak_of(lambda: search_all(question, lambda: [parts], 3))
    assert peak < 140 * MB
    some = slice(3_800, 4_200)  # across the border of two passes
    alone = search(WeightedQueries.of([part[some] for part in asked], (0.5, 0.5)), [parts], 3)
    assert np.array_equal(found.positions[some], alone.positions) and np.array_equal(found.scores[some], alone.scores)


@pytest.mark.parametrize(("dims", "k", "weightings"), [(640, 10, 1), (640, 1_000_000, 1), (8_192, 100, 126)])
def test_passes_cover_every_question_once(dims, k, weightings):
    """A question between two passes would be lost, or one too large for a pass never be asked."""
    parts = list(passes(5_000, dims, k, weightings=weightings))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(5_000))
    assert not list(passes(0, dims, k))


def test_ranks_of_several_passes_are_those_of_one(searched):
    """Reciprocal ranks look 1,000 deep, so that few questions are a pass: one would get another's hits."""
    opened = open_run(searched)
    asked = [f"{word} number {number}" for number in range(500) for word in ("lease", "token", "norm")]
    found = opened.rank(asked, 5, by=By(ranker="rrf"))
    whole = reciprocal_ranks([opened.rank(asked, 95, by=By(model=model)) for model in MODELS], [0.5, 0.2, 0.3], 5)
    assert np.array_equal(found.positions, whole.positions)


def test_tuning_in_passes_is_tuning_at_once(searched):
    """Each question was in memory once for each of 66 weightings; the weights must not depend on the passes."""
    opened = open_run(searched)
    ids = [id_ for _, id_ in opened.corpus(["alpha"]).ids()]
    texts = [chunk.text for chunk in opened.chunks(["alpha"])]
    queries = {f"q{number}": f"{texts[number % 30]} {number}" for number in range(160)}
    qrels = Qrels(queries=queries, judgements={f"q{number}": {ids[number % 30]: 1} for number in range(160)})
    training, _ = split(list(queries))
    candidates = list(grid(3))
    dims = sum(opened.record.models[model].dim for model in MODELS)
    assert len(list(passes(len(training), dims, 70, weightings=len(candidates)))) > 1
    found = tune(opened.corpus(["alpha"]), qrels, HitFilter.of(qrels, ids, keep_own=False))

    vectors = [opened.encode(model, [queries[query] for query in training]) for model in MODELS]
    worth = []
    for weights in candidates:
        best = search(WeightedQueries.of(vectors, weights), opened.corpus(["alpha"]).blocks(MODELS), 70)
        rankings = [[ids[position] for position in row.tolist()] for row in best.positions]
        worth.append(score(rankings, training, qrels.judgements).mean())
    assert tuple(found.weights.values()) == candidates[int(np.argmax(worth))]


def test_scores_of_many_questions_are_each_question_s_own():
    """trec_eval gets a part of the questions at a time: a part would be scored by another's judgements."""
    queries = [f"q{number}" for number in range(2_300)]
    judgements = {query: {"a": 1 + number % 2, "b": 1} for number, query in enumerate(queries)}
    found = score([["b", "a"] if number % 3 else ["x", "a"] for number in range(2_300)], queries, judgements)
    for number in (0, 999, 1_000, 1_001, 2_299):
        alone = score([["b", "a"] if number % 3 else ["x", "a"]], [queries[number]], judgements)
        assert found.of_query["nDCG@10"][number] == alone.of_query["nDCG@10"][0]
