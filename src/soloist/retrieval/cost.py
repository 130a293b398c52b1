"""What members cost: the seconds of encoding all chunks, and the bytes of a chunk's vectors, or words and index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soloist.fusion import FusionPlan
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.run_record import ModelRecord, WordsRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What members cost: seconds of encoding for all chunks, None where no session measured it, and bytes a chunk."""

    seconds: float | None
    bytes_per_chunk: int


def cost_of_members(corpus: Corpus, members: Sequence[str]) -> Cost:
    """What it takes to encode the corpus by these members, and to store their vectors, or their words and indexes."""
    return Cost(
        seconds=_encoding_seconds(corpus, members),
        bytes_per_chunk=sum(_stored_bytes(corpus, member) for member in members),
    )


def joined_costs(costs: Sequence[Cost]) -> Cost:
    """What several things cost together."""
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    return Cost(
        seconds=sum(seconds) if len(seconds) == len(costs) else None,
        bytes_per_chunk=sum(cost.bytes_per_chunk for cost in costs),
    )


def _stored_bytes(corpus: Corpus, member: str) -> int:
    if corpus.record.is_dense(member):
        return corpus.vectors(member).stored_bytes
    return round(corpus.posted_bytes(member) / max(1, corpus.rows))


def cost_of_fusion(corpus: Corpus, plan: FusionPlan) -> Cost:
    """What it takes to encode the corpus by the models that a fusion uses, and to store the fused vectors."""
    used = [model for model, kept in zip(plan.models, plan.kept_dims, strict=True) if kept]
    number_bytes = corpus.vectors(used[0]).stored_bytes // corpus.record.models[used[0]].dim
    return Cost(seconds=_encoding_seconds(corpus, used), bytes_per_chunk=plan.dim * number_bytes)


def _encoding_seconds(corpus: Corpus, members: Sequence[str]) -> float | None:
    """At the rate of the session that encoded; None where the rate of a member is not known."""
    every: dict[str, ModelRecord | WordsRecord] = {
        **corpus.record.models, **corpus.record.sparse, **corpus.record.words
    }  # fmt: skip
    records = [every[member] for member in members]
    known = [record.seconds / record.embedded * corpus.rows for record in records if record.embedded]
    return sum(known) if len(known) == len(records) else None
