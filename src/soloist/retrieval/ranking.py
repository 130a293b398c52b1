"""Rankings of several models made into one. Pure; knows positions and scores, and nothing of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soloist.retrieval.exact import Best

# The constant of Cormack, Clarke and Buettcher (2009), with whom the method begins.
RRF_CONSTANT = 60
# How far down each model's ranking counts, whatever the number of hits, of which there can be no more: below it a row
# adds less than a seventeenth of what the first rank does.
RRF_DEPTH = 1_000


def reciprocal_ranks(rankings: Sequence[Best], weights: Sequence[float], k: int) -> Best:
    """Reciprocal rank fusion: a row's score is the sum of weight / (60 + rank) over the models' rankings that have it.

    Equal sums are in the order of their rows. Of each query the `k` best, or all rows that any model ranks.
    """
    found = [_fused([each.positions[query] for each in rankings], weights) for query in range(len(rankings[0].scores))]
    kept = min([k, *(len(positions) for positions, _ in found)])
    return Best(
        positions=np.stack([positions[:kept] for positions, _ in found]),
        scores=np.stack([scores[:kept] for _, scores in found]),
    )


def _fused(
    rankings: Sequence[NDArray[np.int64]], weights: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    positions, places = np.unique(np.concatenate(rankings), return_inverse=True)
    shares = [weight / (RRF_CONSTANT + np.arange(1, len(r) + 1)) for r, weight in zip(rankings, weights, strict=True)]
    scores = np.bincount(places, weights=np.concatenate(shares), minlength=len(positions))
    order = np.lexsort((positions, -scores))
    return positions[order], scores[order].astype(np.float64)
