"""Weights that are chosen on one half of the judged questions and tried on the other half."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ConfigError
from soloist.fusion_methods import DEFAULT_FUSION, HYBRID
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.exact import WeightedQueries, passes, search
from soloist.retrieval.identical_ids import HitFilter
from soloist.retrieval.metrics import FEWEST, MAIN, Difference, Scores, difference, score
from soloist.retrieval.qrels import Qrels
from soloist.wording import count_text, is_or_are

_STEPS = {2: 20, 3: 10}  # of 1, by the number of models; with more models, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The weights that were best for a concatenation on the training questions, and what they are worth on the others.

    `gain` is over the model that was the best single one on the training questions. In a run with words they are those
    of all members for `ranking`, the hybrid one.
    """

    weights: Mapping[str, float]
    single: str
    training: int
    held_out: int
    ndcg: float
    gain: Difference
    ranking: str = DEFAULT_FUSION


def tune(corpus: Corpus, qrels: Qrels, hits: HitFilter) -> Tuned:
    """Try a grid of weights for a concatenation of all models, or for all members of a run with words.

    Raises:
        ConfigError: see `require_tunable`.
    """
    models = list(corpus.record.kinds)
    scores_of = _hybrid_scores if corpus.record.posted else _scores
    training, held_out = require_tunable(models, qrels)
    candidates = list(grid(len(models)))
    means = [scores.mean() for scores in scores_of(corpus, qrels, hits, training, candidates)]
    weights = candidates[int(np.argmax(means))]
    singles = [tuple(float(other == model) for other in models) for model in models]
    single = max(singles, key=lambda alone: means[candidates.index(alone)])
    tuned, alone = scores_of(corpus, qrels, hits, held_out, [weights, single])
    return Tuned(
        weights=dict(zip(models, weights, strict=True)),
        single=models[single.index(1.0)],
        training=len(training),
        held_out=len(held_out),
        ndcg=tuned.mean(),
        gain=difference(tuned.of_query[MAIN], alone.of_query[MAIN], [qrels.queries[query] for query in held_out]),
        ranking=HYBRID if corpus.record.posted else DEFAULT_FUSION,
    )


def require_tunable(models: Sequence[str], qrels: Qrels) -> tuple[list[str], list[str]]:
    """The questions to tune on and those to try the weights on.

    Raises:
        ConfigError: the run has one model, or there are too few questions to keep any back.
    """
    if len(models) < 2:
        raise ConfigError("the run has one model, so it has no weights to tune: leave out --tune")
    training, held_out = split(list(qrels.queries))
    if min(len(training), len(held_out)) < FEWEST:
        count = len(qrels.queries)
        raise ConfigError(
            f"{count_text(count, 'question')} {is_or_are(count)} too few to tune weights on one half and try them on "
            f"the other: judge {2 * FEWEST} or more, or leave out --tune"
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
    corpus: Corpus, qrels: Qrels, hits: HitFilter, queries: Sequence[str], candidates: Sequence[Sequence[float]]
) -> list[Scores]:
    """What each candidate's concatenation is worth, in passes over the vectors with as many questions as `passes` lets.

    Each question is there once for each candidate; their numbers together do not matter for memory.
    """
    models = list(corpus.record.models)
    vectors = _query_vectors(corpus, qrels, queries)
    dims = sum(part.shape[1] for part in vectors)
    parts: list[list[Scores]] = []
    for some in passes(len(queries), dims, hits.depth, weightings=len(candidates)):
        weighted = _weighted([part[some] for part in vectors], candidates)
        positions = search(weighted, corpus.blocks(models), hits.depth).positions
        asked = queries[some]
        rankings = [positions[start : start + len(asked)] for start in range(0, len(positions), len(asked))]
        parts.append([score(hits.rankings(ranking, asked), asked, qrels.judgements) for ranking in rankings])
    return [Scores.joined(scores) for scores in zip(*parts, strict=True)]


def _hybrid_scores(
    corpus: Corpus, qrels: Qrels, hits: HitFilter, queries: Sequence[str], candidates: Sequence[Sequence[float]]
) -> list[Scores]:
    """What each candidate's weighted sum of all members is worth. The members score every question once.

    The rankings of one question are in memory at a time.
    """
    members = list(corpus.record.kinds)
    weightings = [dict(zip(members, weights, strict=True)) for weights in candidates]
    texts = [qrels.queries[query] for query in queries]
    parts: list[list[Scores]] = []
    for query, scores in zip(queries, corpus.question_scores(members, texts), strict=True):
        found = scores.best(weightings, hits.depth)
        parts.append([score(hits.rankings([rows], [query]), [query], qrels.judgements) for rows, _ in found])
    return [Scores.joined(scores) for scores in zip(*parts, strict=True)]


def _query_vectors(corpus: Corpus, qrels: Qrels, queries: Sequence[str]) -> list[Vectors]:
    """The vectors of these questions by each model. All questions are encoded, because the encoders keep those."""
    numbers = {query: number for number, query in enumerate(qrels.queries)}
    rows = [numbers[query] for query in queries]
    texts = list(qrels.queries.values())
    return [corpus.queries.by_model(model, texts)[rows] for model in corpus.record.models]


def _weighted(vectors: Sequence[Vectors], candidates: Sequence[Sequence[float]]) -> WeightedQueries:
    """All queries with the first candidate's weights, then all with the next one's."""
    weights = np.repeat(np.asarray(candidates, np.float64), len(vectors[0]), axis=0)
    return WeightedQueries(vectors=[np.tile(part, (len(candidates), 1)) for part in vectors], weights=weights)
