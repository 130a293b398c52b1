"""The fusion methods: one row each. Pure: names and words only; the arithmetic is in the module that a row names.

Help, settings, errors, plans, fits, transforms and evaluation read this table, so a new method is a row here and a
module with its `RULE`, see `soloist.fusion.rule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionMethod:
    """A row of the table: the module that has the `RULE`, and what help says after the method's name."""

    module: str
    help: str


FUSIONS: Mapping[str, FusionMethod] = {
    "concat": FusionMethod(
        module="soloist.fusion.methods.concat",
        help="the vectors side by side, each scaled by the square root of its weight",
    ),
    "mean": FusionMethod(module="soloist.fusion.methods.mean", help="the weighted mean, all vectors cut to one length"),
    "projection": FusionMethod(
        module="soloist.fusion.methods.projection",
        help="concat, reduced to --dim components by a projection that is fitted to the run",
    ),
    "aligned-mean": FusionMethod(
        module="soloist.fusion.methods.aligned_mean",
        help="the weighted mean, after a rotation onto the first model; the rotations are fitted to the run",
    ),
}
DEFAULT_FUSION = "concat"
NO_FUSION = "none"  # a run without fused vectors
FUSED = "fused"  # the name of the fused vectors beside the names of the models
HYBRID = "hybrid"  # the name of the ranking by members of several kinds


def fusion_choices() -> tuple[str, ...]:
    """The names that a user can give: the methods, and the one for no fusion."""
    return (*FUSIONS, NO_FUSION)
