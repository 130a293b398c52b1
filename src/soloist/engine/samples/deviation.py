"""What a fast format costs: a run's own chunks once more in float32, a few of them, before the passes begin."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.encoding.encoder import Encoder, forward, unit_rows
from soloist.engine.drivers.local import Stage, pending
from soloist.engine.intake.ingest import ShardRef
from soloist.errors import ModelLoadError
from soloist.events import EventSink, ListSink, Notice
from soloist.models.loading import stage as stage_model
from soloist.sizing.run_plan import Pass
from soloist.types import DTypeRequest
from soloist.workers import interruptible

SAMPLE_CHUNKS = 16


def tell_deviations(requested: DTypeRequest, passes: Sequence[Pass], stage: Stage, sink: EventSink) -> None:
    """Say, for each model that `auto-fast` has in bfloat16 and that has shards to embed, how far its vectors are from
    float32's.

    The model is loaded once more for it, in float32, and let go again. Where that fails, that is said.

    Raises:
        RunStoppedError: the run was to end.
    """
    for model, shard in first_shards(passes, stage).items():
        staged = stage.encoders[model].staged
        fast = requested == "auto-fast" or (requested == "auto" and staged.spec.dtype == "auto-fast")
        if not fast or staged.dtype == "float32":
            continue
        try:
            measured = _deviation(stage, model, shard)
        except (RuntimeError, ModelLoadError) as exc:  # the run itself may need less memory
            measured = f"how far that is from float32 could not be measured ({exc})"
        sink.emit(Notice(about=model, message=f"it computes in {staged.dtype}: {measured}"))


def _deviation(stage: Stage, model: str, shard: ShardRef) -> str:
    encoder = stage.encoders[model]
    sample = sample_of(stage, shard, SAMPLE_CHUNKS)
    staged = interruptible(functools.partial(stage_model, encoder.staged.spec, "float32"), stage.stop.check)
    reference = Encoder(staged, packs=encoder.packs)
    cosines = np.einsum(
        "ij,ij->i",
        unit_rows(host_vectors(encoder, sample, stage.stop.check))[0],
        unit_rows(host_vectors(reference, sample, stage.stop.check))[0],
    )
    if not np.isfinite(cosines).all():
        return f"of {len(sample)} chunks some have no finite vector in it"
    return f"of {len(sample)} chunks the lowest cosine to float32 is {cosines.min():.5f}, the mean {cosines.mean():.5f}"


def sample_of(stage: Stage, shard: ShardRef, chunks: int) -> list[str]:
    """So many texts of a shard, evenly from its first to its last; all where it has fewer."""
    texts = stage.folder.shards.read_shard(shard.collection, shard.index).texts
    return [texts[at] for at in np.linspace(0, len(texts) - 1, min(chunks, len(texts))).astype(int)]


def first_shards(passes: Sequence[Pass], stage: Stage) -> dict[str, ShardRef]:
    """The first shard that each model has to embed, of those that have any."""
    work = [item for each in passes for item in pending(each, stage, ListSink())]
    return {model: shard for shard, model in reversed(work)}


def host_vectors(encoder: Encoder, texts: Sequence[str], check: Callable[[], None]) -> Vectors:
    """Vectors (rows, dim) of some texts as the model gives them, computed on the host."""
    tokenized = encoder.tokenize(texts)
    found = np.zeros((len(texts), encoder.staged.dim), dtype=np.float32)
    for batch in encoder.plan(tokenized, lambda length: 1):
        check()
        vectors = forward(encoder.staged.module, encoder.collate(tokenized, batch), "cpu")
        found[list(batch.rows)] = vectors[: len(batch.rows)]
    return found
