"""What every driver does with the texts of a shard: tokenize them, plan their batches, and encode them.

Ids and texts come in; vectors and token counts go out. Nothing here knows a run folder, a manifest or the events of a
run. The steps are separate because a driver prepares the next shard, and finishes the shard before, beside the devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.encoding.encoder import Encoder
from soloist.encoding.found_rows import MemberRows
from soloist.encoding.replicas import EncodedShard, Replicas
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.memory.planner import BatchLimits
from soloist.models.loading import StagedModel
from soloist.ragged import RaggedRows
from soloist.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedTexts:
    """Texts with their batches for one model. `padded_tokens` are those that the devices compute.

    `counts`, (rows, 2), are the tokens that were read of each text, and those that were cut off.
    """

    counts: NDArray[np.int32]
    batches: tuple[Batch, ...]
    padded_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedTexts(PlannedTexts):
    """Planned texts with their tokens: ready for the devices."""

    ids: tuple[str, ...]
    tokenized: TokenizedTexts

    def without_tokens(self) -> PlannedTexts:
        """The same texts once they are encoded, when nothing needs their tokens."""
        return PlannedTexts(counts=self.counts, batches=self.batches, padded_tokens=self.padded_tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedTexts:
    """What the devices made of texts. `recomputed_ids` are the chunks whose vectors were computed once more in float32.

    `shard` is None where there was no text. `members` are those that a row has numbers of, beside each other.
    """

    shard: EncodedShard | None
    members: tuple[StagedModel, ...]
    rows_per_device: Mapping[str, int]
    recomputed_ids: tuple[str, ...]

    def rows(self, model: str) -> MemberRows:
        """The rows of a member: (rows, dim) float32 of unit length, or sparse rows. The host computes them now."""
        number = [member.spec.name for member in self.members].index(model)
        if self.shard is not None:
            return self.shard.rows(number)
        member = self.members[number]
        if member.kind == "sparse":
            return RaggedRows.empty(0, np.float32)
        return np.empty((0, member.dim), dtype=np.float32)


def prepare_texts(encoder: Encoder, limits: BatchLimits, ids: Sequence[str], texts: Sequence[str]) -> PreparedTexts:
    """Tokenize texts, and lay them out in batches within the limits. Needs no device."""
    tokenized = encoder.tokenize(texts)
    planned = plan_texts(encoder, limits, tokenized.counts)
    return PreparedTexts(
        ids=tuple(ids),
        tokenized=tokenized,
        counts=planned.counts,
        batches=planned.batches,
        padded_tokens=planned.padded_tokens,
    )


def plan_texts(encoder: Encoder, limits: BatchLimits, counts: NDArray[np.int32]) -> PlannedTexts:
    """Lay out texts of these token counts in batches within the limits."""
    lengths = counts[:, 0].tolist()
    batches = encoder.plan_lengths(lengths, limits.rows, limits.is_bound_by_memory)
    return PlannedTexts(counts=counts, batches=batches, padded_tokens=encoder.computed_tokens(lengths, batches))


def encode_texts(encoder: Encoder, replicas: Replicas | None, prepared: PreparedTexts) -> EncodedTexts:
    """The vectors of prepared texts, by the replicas on the leased devices; without texts no replicas are needed.

    Raises:
        SoloistError: a batch of one row does not fit on a device, or a row has no vector.
    """
    staged = encoder.staged
    members = staged.members or (staged,)
    if not prepared.batches:
        return EncodedTexts(shard=None, members=members, rows_per_device={}, recomputed_ids=())
    assert replicas is not None
    encoded = replicas.encode(prepared.ids, prepared.tokenized, prepared.batches)
    return EncodedTexts(
        shard=encoded,
        members=members,
        rows_per_device=encoded.rows_per_device,
        recomputed_ids=tuple(prepared.ids[row] for row in encoded.recomputed_rows),
    )
