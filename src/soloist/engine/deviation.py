"""What a fast format costs: a run's own chunks once more in float32, a few of them, before the passes begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soloist.encoding.encoder import Encoder, forward, unit_rows
from soloist.engine.passes import Stage, pending
from soloist.engine.plan import Pass
from soloist.events import EventSink, ListSink, Notice
from soloist.models.loading import stage as stage_model

SAMPLE_CHUNKS = 16


def tell_deviations(passes: Sequence[Pass], stage: Stage, sink: EventSink) -> None:
    """Say, for each model that is not in float32 and has shards to embed, how far its vectors are from float32's.

    The model is loaded once more for it, in float32, and let go again.
    """
    work = [item for each in passes for item in pending(each, stage, ListSink())]
    first = {model: shard for shard, model in reversed(work)}
    for model, shard in first.items():
        staged = stage.encoders[model].staged
        if staged.dtype == "float32":
            continue
        texts = stage.folder.read_shard(shard.collection, shard.index).texts
        sample = [texts[at] for at in np.linspace(0, len(texts) - 1, min(SAMPLE_CHUNKS, len(texts))).astype(int)]
        reference = Encoder(stage_model(staged.spec, "float32"), packs=stage.encoders[model].packs)
        cosines = np.einsum("ij,ij->i", _vectors(stage.encoders[model], sample), _vectors(reference, sample))
        sink.emit(
            Notice(
                about=model,
                message=f"it computes in {staged.dtype}: of {len(sample)} chunks the lowest cosine to float32 is "
                f"{cosines.min():.5f}, the mean {cosines.mean():.5f}",
            )
        )


def _vectors(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (rows, dim) of some texts, computed on the host."""
    tokenized = encoder.tokenize(texts)
    found = np.zeros((len(texts), encoder.staged.dim), dtype=np.float32)
    for batch in encoder.plan(tokenized, lambda length: 1):
        vectors = forward(encoder.staged.module, encoder.collate(tokenized, batch), "cpu")
        found[list(batch.rows)] = vectors[: len(batch.rows)]
    return unit_rows(found)[0]
