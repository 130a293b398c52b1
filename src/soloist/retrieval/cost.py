"""What vectors cost: the seconds of encoding all chunks, and the bytes of a chunk's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soloist.fusion import FusionPlan
from soloist.retrieval.corpus import Corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What vectors cost: seconds of encoding for all chunks, None where no session measured it, and bytes a chunk."""

    seconds: float | None
    bytes_per_chunk: int


def cost_of_models(corpus: Corpus, models: Sequence[str]) -> Cost:
    """What it takes to encode the corpus by these models, and to store their vectors."""
    return Cost(
        seconds=_encoding_seconds(corpus, models),
        bytes_per_chunk=sum(corpus.vectors(model).stored_bytes for model in models),
    )


def cost_of_fusion(corpus: Corpus, plan: FusionPlan) -> Cost:
    """What it takes to encode the corpus by the models that a fusion uses, and to store the fused vectors."""
    used = [model for model, kept in zip(plan.models, plan.kept_dims, strict=True) if kept]
    number_bytes = corpus.vectors(used[0]).stored_bytes // corpus.record.models[used[0]].dim
    return Cost(seconds=_encoding_seconds(corpus, used), bytes_per_chunk=plan.dim * number_bytes)


def _encoding_seconds(corpus: Corpus, models: Sequence[str]) -> float | None:
    """At the rate of the session that embedded; None where the rate of a model is not known."""
    records = [corpus.record.models[model] for model in models]
    known = [record.seconds / record.embedded * corpus.rows for record in records if record.embedded]
    return sum(known) if len(known) == len(records) else None
