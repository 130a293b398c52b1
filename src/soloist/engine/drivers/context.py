"""What every driver is given to compute a pass. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder
from soloist.engine.intake.ahead import NONE_AHEAD, EmbeddedAhead
from soloist.engine.resume.pending import RunShards
from soloist.sizing.run_plan import RunPlan
from soloist.stopping import Stop
from soloist.types import DTypeRequest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassContext:
    """One pass: the encoders of its models, in order, the devices, and the shards to embed.

    `next_encoders` are those that the next pass adds: their weights are read from the disk during this pass. `ahead`
    has the vectors that were embedded while the input was read, and wait for their pass. `shared_dtype` is that of the
    run's config.
    """

    encoders: Mapping[str, Encoder]
    plan: RunPlan
    accelerator: Accelerator
    run_shards: RunShards
    stop: Stop
    next_encoders: Sequence[Encoder] = ()
    ahead: EmbeddedAhead = NONE_AHEAD
    shared_dtype: DTypeRequest | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the pass, in order."""
        return tuple(self.encoders)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each model, in order."""
        return {name: encoder.staged.member(name).fingerprint for name, encoder in self.encoders.items()}

    def together(self, model: str) -> tuple[str, ...]:
        """This model and the models that share its encoder, in the order of the pass."""
        return tuple(name for name, encoder in self.encoders.items() if encoder is self.encoders[model])

    @property
    def distinct(self) -> dict[str, Encoder]:
        """Each encoder once, by the first of its models."""
        return {name: encoder for name, encoder in self.encoders.items() if self.together(name)[0] == name}


def pass_contexts(
    plan: RunPlan,
    encoders: Mapping[str, Encoder],
    accelerator: Accelerator,
    run_shards: RunShards,
    stop: Stop,
    ahead: EmbeddedAhead = NONE_AHEAD,
    shared_dtype: DTypeRequest | None = None,
) -> list[PassContext]:
    """The passes of a plan, in order; `encoders` has those of all its models."""
    return [
        PassContext(
            encoders={model: encoders[model] for model in present.models},
            next_encoders=[encoders[model] for model in plan.following(present)],
            plan=plan, accelerator=accelerator, run_shards=run_shards, stop=stop, ahead=ahead,
            shared_dtype=shared_dtype,
        )
        for present in plan.passes
    ]  # fmt: skip
