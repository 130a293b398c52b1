"""What a fusion does, settled before the first vector. Pure: names, weights and dims in, a checked plan out.

What differs between the methods is in their rules, see `soloist.fusion.rule`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soloist.config import FusionConfig
from soloist.errors import FusionError
from soloist.fusion.rule import FittedRule, rule_of
from soloist.fusion_methods import FUSIONS, NO_FUSION, fusion_choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model as the fusion sees it: its name, the dim of its vectors, the dims that it was trained to be cut to."""

    name: str
    dim: int
    matryoshka_dims: tuple[int, ...] = ()

    @property
    def trained_dims(self) -> frozenset[int]:
        """The dims at which its vectors are as good as their length allows, its full dim included."""
        return frozenset({self.dim, *(dim for dim in self.matryoshka_dims if dim < self.dim)})


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionPlan:
    """How vectors are fused, the same for documents and queries.

    `models`, `weights` (sum 1), `member_dims` (components that come in) and `kept_dims` (components that
    are used) go together by position. A model of weight 0 keeps no component: it stays in the plan, and
    its vectors change nothing. `dim` is the fused vector's; `notices` are for the user.
    """

    method: str
    models: tuple[str, ...]
    weights: tuple[float, ...]
    member_dims: tuple[int, ...]
    kept_dims: tuple[int, ...]
    dim: int
    notices: tuple[str, ...] = ()

    @property
    def needs_fit(self) -> bool:
        """Whether it has matrices that are fitted to the vectors."""
        return isinstance(rule_of(self.method), FittedRule)

    def has_proportions(self, weights: Mapping[str, float]) -> bool:
        """Whether its models have its proportions by these weights, whatever other members weigh."""
        together = math.fsum(weights.get(name, 0.0) for name in self.models)
        return together > 0 and all(
            math.isclose(weights.get(name, 0.0) / together, weight, rel_tol=1e-9, abs_tol=1e-12)
            for name, weight in zip(self.models, self.weights, strict=True)
        )

    def all_columns(self) -> list[slice]:
        """Where the kept components of each model lie when all are put side by side."""
        ends = itertools.accumulate(self.kept_dims)
        return [slice(end - kept, end) for end, kept in zip(ends, self.kept_dims, strict=True)]

    def columns(self) -> list[tuple[int, slice]]:
        """The position of each model with a weight above 0, and where its kept components lie, as in `all_columns`."""
        return [(at, columns) for at, columns in enumerate(self.all_columns()) if self.kept_dims[at]]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FusionPlan:
        """The plan that `to_dict` gave.

        Raises:
            FusionError: fields are missing or unknown, or the method is.
        """
        fields: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
        try:
            plan = cls(**fields)
        except TypeError as exc:
            raise FusionError(f"the saved fusion plan does not fit ({exc}): run again into a new folder") from exc
        if plan.method not in FUSIONS:
            raise FusionError(
                f"the run was fused by {plan.method}, which this version of soloist does not have: install the version "
                f"that made the run, or run again with one of {', '.join(fusion_choices())}"
            )
        return plan


def require_weights(config: FusionConfig, names: Sequence[str]) -> None:
    """Check the weights against the models' names alone, before anything is read or loaded.

    Raises:
        FusionError: weights that are negative, not finite, all 0, of unknown models, or that leave a model out.
    """
    checked_weights(config.weights, names)


def plan_fusion(config: FusionConfig, members: Sequence[Member]) -> FusionPlan | None:
    """Settle weights and dims for the models, in their order; None for the method `none`.

    A model of weight 0 has no part in the dims: neither its own dim nor what it was trained for counts.

    Raises:
        FusionError: weights that `require_weights` refuses; a dim that the method cannot have of these models.
    """
    if config.method == NO_FUSION:
        return None
    weights = checked_weights(config.weights, [member.name for member in members])
    used = [member for member, weight in zip(members, weights, strict=True) if weight > 0]
    dims = rule_of(config.method).settle(config.dim, used)
    return FusionPlan(
        method=config.method,
        models=tuple(member.name for member in members),
        weights=weights,
        member_dims=tuple(member.dim for member in members),
        kept_dims=tuple(
            _kept_dim(member, dims.kept) if weight > 0 else 0 for member, weight in zip(members, weights, strict=True)
        ),
        dim=dims.fused,
        notices=dims.notices,
    )


def _kept_dim(member: Member, cut: int | None) -> int:
    return member.dim if cut is None else cut


def checked_weights(asked: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """The weight of each of these names, which add up to 1; equal ones where none are given.

    Raises:
        FusionError: weights that `require_weights` refuses.
    """
    for name, value in asked.items():
        _require_weight(name, value)
    _require_same_names(asked, names)
    raw = [asked[name] if asked else 1.0 for name in names]
    largest = max(raw, default=0.0)
    if largest == 0:
        raise FusionError("all weights are 0: give at least one model a weight above 0")
    scaled = [weight / largest for weight in raw]  # a sum of huge weights is no number
    total = math.fsum(scaled)
    return tuple(weight / total for weight in scaled)


def _require_weight(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise FusionError(f"the weight of {name} is {value}: give a finite number of 0 or more")
    if value < 0:
        raise FusionError(f"the weight of {name} is {value}: give 0 or more")


def _require_same_names(asked: Mapping[str, float], names: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise FusionError(
            f"weights name {unknown[0]}, which is not a model of this run: choose from {', '.join(names)}"
        )
    missing = [name for name in names if asked and name not in asked]
    if missing:
        raise FusionError(
            f"weights name {', '.join(asked)} but not {missing[0]}: give {missing[0]} a weight too, 0 to leave it out"
        )
