"""Why a chunk is a hit: what every member of the run says of it, whatever ranked it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from soloist.retrieval.corpus import Corpus
from soloist.retrieval.member_scores import MemberScores
from soloist.types import Reason


def reasons(
    corpus: Corpus, queries: Sequence[str], positions: Sequence[NDArray[np.int64]]
) -> Iterator[list[tuple[Reason, ...]]]:
    """For each query, and each of its rows, a reason from every member, in the order of the members.

    All members score all rows, also those that did not rank.
    """
    members = list(corpus.record.kinds)
    for query, scores, rows in zip(queries, corpus.question_scores(members, queries), positions, strict=True):
        said = {name: corpus.queries.said(name, query) for name in members if not corpus.record.is_dense(name)}
        yield [
            tuple(_reason(name, scores.members[name], row, said.get(name)) for name in members) for row in rows.tolist()
        ]


def _reason(member: str, scores: MemberScores, row: int, said: Mapping[str, str] | None) -> Reason:
    score = float(scores.exact(np.array([row]))[0])
    if said is None:
        return Reason(member=member, score=score, rank=scores.rank(row))
    words: dict[str, float] = {}
    for term in scores.terms:
        at = int(np.searchsorted(term.rows, row))
        if at < len(term.rows) and term.rows[at] == row:
            word = said.get(str(term.term), str(term.term))
            words[word] = words.get(word, 0.0) + float(term.scores[at])
    ordered = dict(sorted(words.items(), key=lambda item: -item[1]))
    return Reason(member=member, score=score, rank=scores.rank(row) if words else None, words=ordered)
