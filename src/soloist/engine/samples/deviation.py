"""What a fast dtype costs: a few of the run's chunks are embedded in float32 too, before the passes begin."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.engine.samples.texts import Samples
from soloist.errors import ModelLoadError
from soloist.events import EventSink, Notice
from soloist.models.loading import stage as stage_model
from soloist.types import DTypeRequest
from soloist.workers import interruptible

SAMPLE_CHUNKS = 16


def tell_deviations(
    requested: DTypeRequest,
    encoders: Mapping[str, Encoder],
    samples: Samples,
    check: Callable[[], None],
    sink: EventSink,
) -> None:
    """Say, for each model that `auto-fast` has in bfloat16 and that has shards to embed, how far its vectors are from
    float32's.

    The model is loaded in float32 for this, and dropped afterwards. Where that fails, the notice says so. `check` is
    called between batches, and raises where the run is to end.
    """
    for model in samples.first:
        staged = encoders[model].staged
        fast = requested == "auto-fast" or (requested == "auto" and staged.spec.dtype == "auto-fast")
        if not fast or staged.dtype == "float32" or staged.kind == "sparse":
            continue
        try:
            measured = _deviation(encoders[model], samples.texts(model, SAMPLE_CHUNKS), check)
        except (RuntimeError, ModelLoadError) as exc:  # the run itself may need less memory
            measured = f"the difference from float32 could not be measured ({exc})"
        sink.emit(Notice(about=model, message=f"it computes in {staged.dtype}: {measured}"))


def _deviation(encoder: Encoder, texts: Sequence[str], check: Callable[[], None]) -> str:
    staged = interruptible(functools.partial(stage_model, encoder.staged.spec, "float32"), check)
    reference = Encoder(staged, packs=encoder.packs)
    cosines = np.einsum(
        "ij,ij->i",
        unit_rows(host_vectors(encoder, texts, check))[0],
        unit_rows(host_vectors(reference, texts, check))[0],
    )
    if not np.isfinite(cosines).all():
        return f"some of {len(texts)} chunks have no finite vector in this dtype"
    least, mean = float(cosines.min()), float(cosines.mean())
    return f"over {len(texts)} chunks, the cosine to float32 is {least:.5f} at least, {mean:.5f} on average"


def host_vectors(encoder: Encoder, texts: Sequence[str], check: Callable[[], None]) -> Vectors:
    """Vectors (rows, dim) of some texts as the model gives them, computed on the host."""
    tokenized = encoder.tokenize(texts)
    vectors = np.zeros((len(texts), encoder.staged.dim), dtype=np.float32)
    for batch in encoder.plan(tokenized, lambda length: 1):
        check()
        computed = forward(encoder.staged.module, encoder.collate(tokenized, batch), "cpu")
        vectors[list(batch.rows)] = computed[: len(batch.rows)]
    return vectors
