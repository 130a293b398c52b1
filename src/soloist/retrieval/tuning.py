"""Weights chosen on one part of the judged questions and tried on the other."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ConfigError
from soloist.retrieval.exact import Question, passes, search
from soloist.retrieval.identical_ids import HitFilter
from soloist.retrieval.metrics import FEWEST, MAIN, Difference, Scores, difference, score
from soloist.retrieval.opened import OpenedRun
from soloist.retrieval.qrels import Qrels
from soloist.wording import count_text, is_or_are

_STEPS = {2: 20, 3: 10}  # of 1, by the number of models; with more models, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The weights that were best for a concatenation on the training questions, and what they are worth on the others.

    `gain` is over the model that was the best single one on the training questions.
    """

    weights: Mapping[str, float]
    single: str
    training: int
    held_out: int
    ndcg: float
    gain: Difference


def tune(run: OpenedRun, qrels: Qrels, counted: HitFilter, collections: Sequence[str] = ()) -> Tuned:
    """Try a grid of weights; `counted` are the rows that count as hits.

    Raises:
        ConfigError: see `require_tunable`.
    """
    training, held_out = require_tunable(run, qrels)
    candidates = list(grid(len(run.models)))
    rated = [found.mean() for found in _scores(run, qrels, training, candidates, counted, collections)]
    weights = candidates[int(np.argmax(rated))]
    singles = [tuple(float(place == model) for place in range(len(run.models))) for model in range(len(run.models))]
    single = max(singles, key=lambda each: rated[candidates.index(each)])
    tuned, alone = _scores(run, qrels, held_out, [weights, single], counted, collections)
    return Tuned(
        weights=dict(zip(run.models, weights, strict=True)),
        single=run.models[single.index(1.0)],
        training=len(training),
        held_out=len(held_out),
        ndcg=tuned.mean(),
        gain=difference(tuned.of_query[MAIN], alone.of_query[MAIN], [qrels.queries[query] for query in held_out]),
    )


def require_tunable(run: OpenedRun, qrels: Qrels) -> tuple[list[str], list[str]]:
    """The questions to tune on and those to try the weights on.

    Raises:
        ConfigError: the run has one model, or there are too few questions to keep any back.
    """
    if len(run.models) < 2:
        raise ConfigError("the run has one model, whose weight nothing can be tuned against: leave out --tune")
    training, held_out = split(list(qrels.queries))
    if min(len(training), len(held_out)) < FEWEST:
        count = len(qrels.queries)
        raise ConfigError(
            f"{count_text(count, 'question')} {is_or_are(count)} too few to tune weights on a part of them and try "
            f"them on the rest: judge {2 * FEWEST} or more, or leave out --tune"
        )
    return training, held_out


def split(queries: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two halves, by the digests of the ids: the same ones each time, whatever their order."""
    order = sorted(queries, key=lambda query: hashlib.sha256(query.encode()).digest())
    half = set(order[: len(order) // 2])
    return [query for query in queries if query in half], [query for query in queries if query not in half]


def grid(models: int) -> Iterator[tuple[float, ...]]:
    """All weights that are multiples of a step and sum to 1, each model alone among them."""
    steps = _STEPS.get(models, 5)
    for cuts in itertools.combinations_with_replacement(range(steps + 1), models - 1):
        edges = (0, *cuts, steps)
        yield tuple((end - start) / steps for start, end in itertools.pairwise(edges))


def _scores(
    run: OpenedRun,
    qrels: Qrels,
    queries: Sequence[str],
    candidates: Sequence[Sequence[float]],
    counted: HitFilter,
    collections: Sequence[str],
) -> list[Scores]:
    """What each candidate's concatenation is worth, in passes over the vectors with as many questions as `passes` lets.

    Each question is there once for each candidate; their numbers together do not matter for memory.
    """
    # All questions, since the systems have asked them, and then these.
    places = {query: place for place, query in enumerate(qrels.queries)}
    rows = [places[query] for query in queries]
    vectors = [run.encode(model, list(qrels.queries.values()))[rows] for model in run.models]
    dims = sum(part.shape[1] for part in vectors)
    found: list[list[Scores]] = []
    for some in passes(len(queries), dims, counted.depth, weightings=len(candidates)):
        question = _weighted([part[some] for part in vectors], candidates)
        best = search(question, run.blocks(run.models, collections), counted.depth)
        asked = queries[some]
        split_up = np.split(best.positions, len(candidates))
        found.append([score(counted.rankings(positions, asked), asked, qrels.judgements) for positions in split_up])
    return [Scores.joined(parts) for parts in zip(*found, strict=True)]


def _weighted(vectors: Sequence[Vectors], candidates: Sequence[Sequence[float]]) -> Question:
    """All queries with the first candidate's weights, then all with the next one's."""
    weights = np.repeat(np.asarray(candidates, np.float64), len(vectors[0]), axis=0)
    return Question(vectors=[np.tile(part, (len(candidates), 1)) for part in vectors], weights=weights)
