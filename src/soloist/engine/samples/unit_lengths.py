"""What is lost by vectors of length 1 where a model was trained for another comparison than cosine.

Every such model gets a notice. Like the loss of `auto-fast`, it is measured on a few of the run's own chunks before the
passes begin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from soloist.encoding.encoder import Encoder
from soloist.engine.samples.deviation import host_vectors
from soloist.engine.samples.texts import Samples
from soloist.events import EventSink, Notice
from soloist.types import ModelKind, Similarity

SAMPLE_CHUNKS = 32

# Scores of (questions, texts) vectors, the higher the nearer.
_SCORES: Mapping[Similarity, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "dot": lambda v: v @ v.T,
    "euclidean": lambda v: -np.linalg.norm(v[:, None] - v[None], axis=2),
    "manhattan": lambda v: -np.abs(v[:, None] - v[None]).sum(axis=2),
}


def ranks_otherwise(similarity: Similarity, kind: ModelKind, *, has_unit_vectors: bool) -> bool:
    """Whether the model's own comparison may rank otherwise than soloist does.

    Dense vectors are compared by the cosine, and sparse ones by the dot product or, if the model says so, the cosine.
    """
    if kind == "sparse":
        return similarity in ("euclidean", "manhattan")
    return similarity == "manhattan" or (similarity in _SCORES and not has_unit_vectors)


def in_words(similarity: Similarity, kind: ModelKind) -> str:
    """What to say of such a model."""
    trained = {"dot": "dot product", "euclidean": "Euclidean distance", "manhattan": "Manhattan distance"}[similarity]
    compared = (
        "soloist compares sparse vectors by the dot product" if kind == "sparse"
        else "soloist keeps its vectors at length 1 and compares them by cosine"
    )  # fmt: skip
    return f"it was trained to be compared by {trained}, but {compared}, which may rank chunks differently"


def tell_lost_lengths(
    encoders: Mapping[str, Encoder], samples: Samples, check: Callable[[], None], sink: EventSink
) -> None:
    """Emit the notice for each such model of the run, with a measurement where the model has shards to embed.

    `check` is called between batches, and raises where the run is to end.
    """
    for model, encoder in encoders.items():
        staged = encoder.staged
        if not ranks_otherwise(staged.similarity, staged.kind, has_unit_vectors=staged.has_unit_vectors):
            continue
        message = in_words(staged.similarity, staged.kind)
        if model in samples.first and staged.kind == "dense":
            message = f"{message}: {_measured(encoder, samples.texts(model, SAMPLE_CHUNKS), check)}"
        sink.emit(Notice(about=model, message=message))


def _measured(encoder: Encoder, texts: Sequence[str], check: Callable[[], None]) -> str:
    try:
        vectors = host_vectors(encoder, texts, check).astype(np.float64)
    except RuntimeError as exc:  # e.g. an operator that the host lacks in the device's format
        return f"how often could not be measured ({exc})"
    lengths = np.linalg.norm(vectors, axis=1)
    kept = np.isfinite(lengths) & (lengths > 0)
    vectors, lengths = vectors[kept], lengths[kept]
    if len(vectors) < 2:
        return "there are too few chunks to measure how often"
    changed = int(np.sum(_nearest(vectors, encoder.staged.similarity) != _nearest(vectors / lengths[:, None], "dot")))
    return (
        f"over {len(vectors)} chunks, the lengths are {lengths.min():.3g} to {lengths.max():.3g}, and the nearest "
        f"other chunk changes for {changed} of them"
    )


def _nearest(vectors: NDArray[np.float64], similarity: Similarity) -> NDArray[np.intp]:
    """The index of each vector's nearest other vector."""
    scores = _SCORES[similarity](vectors)
    np.fill_diagonal(scores, -np.inf)
    nearest: NDArray[np.intp] = np.argmax(scores, axis=1)
    return nearest
