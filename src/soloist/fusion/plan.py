"""What a fusion does, settled before the first vector. Pure: names, weights and dims in, a checked plan out.

Measured on seven retrieval sets with MiniLM and WordLlama: concat beat the better single model on six
at the weights 0.7 and 0.3, and on all seven at 0.85 and 0.15; the plain mean at 256 dims lost to it on
all seven. The models' spaces have nothing in common, so that a mean of them mixes what a
concatenation keeps apart: concat is the default, and a plan that averages says so in a notice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soloist.config import FusionConfig
from soloist.errors import FusionError
from soloist.types import FusionMethod

_MEAN_NOTICE = (
    "mean at 256 dims lost to the better single model on all seven retrieval sets measured with MiniLM and WordLlama; "
    "concat beat it on six at weights .7/.3 and on seven at .85/.15"
)


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

    method: FusionMethod
    models: tuple[str, ...]
    weights: tuple[float, ...]
    member_dims: tuple[int, ...]
    kept_dims: tuple[int, ...]
    dim: int
    notices: tuple[str, ...] = ()

    @property
    def needs_fit(self) -> bool:
        """Whether it has matrices that are fitted to the vectors."""
        return self.method in ("projection", "aligned-mean")

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FusionPlan:
        """The plan that `to_dict` gave.

        Raises:
            FusionError: fields are missing or unknown.
        """
        fields: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
        try:
            return cls(**fields)
        except TypeError as exc:
            raise FusionError(f"the saved fusion plan does not fit ({exc}): run again into a new folder") from exc


def require_weights(config: FusionConfig, names: Sequence[str]) -> None:
    """Check the weights against the models' names alone, before anything is read or loaded.

    Raises:
        FusionError: weights that are negative, not finite, all 0, of unknown models, or that leave a model out.
    """
    _weights(config.weights, names)


def plan_fusion(config: FusionConfig, members: Sequence[Member]) -> FusionPlan | None:
    """Settle weights and dims for the models, in their order; None for the method `none`.

    concat keeps `config.dim` components of every model, or all of them; its dim is their sum. mean keeps
    one number of components of every model: `config.dim`, or the largest that all were trained for, or the
    smallest full dim, with a notice for each model that was not trained to be cut there. A model of weight 0
    has no part in any of this. projection and aligned-mean keep all components, and have matrices that are fitted to
    the vectors (see `fitting`): the dim of a projection is `config.dim` or that of the narrowest model, and that of an
    aligned mean is the first model's.

    Raises:
        FusionError: weights that are negative, not finite, all 0, of unknown models, or that leave a
            model out; a `config.dim` wider than a model.
    """
    if config.method == "none":
        return None
    weights = _weights(config.weights, [member.name for member in members])
    used = [member for member, weight in zip(members, weights, strict=True) if weight > 0]
    cut = _common_cut(config, used) if config.method in ("concat", "mean") else None
    kept_dims = tuple(_kept(member, weight, cut) for member, weight in zip(members, weights, strict=True))
    return FusionPlan(
        method=config.method,
        models=tuple(member.name for member in members),
        weights=weights,
        member_dims=tuple(member.dim for member in members),
        kept_dims=kept_dims,
        dim=_fused_dim(config, used, kept_dims),
        notices=_notices(config, used, cut),
    )


def _weights(asked: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
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
        raise FusionError(f"weights name {unknown[0]}, which is not a model of this run: known are {', '.join(names)}")
    missing = [name for name in names if asked and name not in asked]
    if missing:
        raise FusionError(
            f"weights name {', '.join(asked)} but not {missing[0]}: "
            f"give {missing[0]} a weight, 0 to leave it out of the fused vector"
        )


def _fused_dim(config: FusionConfig, used: Sequence[Member], kept_dims: Sequence[int]) -> int:
    if config.method == "concat":
        return sum(kept_dims)
    if config.method == "mean":
        return max(kept_dims)
    if config.method == "aligned-mean":
        if config.dim is not None:
            raise FusionError(
                f"dim is {config.dim}, but an aligned mean has the {used[0].dim} dims of {used[0].name}: leave it out, "
                "or choose projection"
            )
        return used[0].dim
    dim = config.dim if config.dim is not None else min(member.dim for member in used)
    if dim > sum(kept_dims):
        raise FusionError(
            f"dim is {dim} but the models have only {sum(kept_dims)} dims together: choose a dim of {sum(kept_dims)} "
            "or less, or leave it out"
        )
    return dim


def _common_cut(config: FusionConfig, used: Sequence[Member]) -> int | None:
    narrowest = min(used, key=lambda member: member.dim)
    if config.dim is None:
        return None if config.method == "concat" else _default_cut(used, narrowest.dim)
    if config.dim > narrowest.dim:
        raise FusionError(
            f"dim is {config.dim} but {narrowest.name} has only {narrowest.dim} dims: "
            f"choose a dim of {narrowest.dim} or less, or leave it out"
        )
    return config.dim


def _default_cut(used: Sequence[Member], narrowest_dim: int) -> int:
    common = frozenset.intersection(*(member.trained_dims for member in used))
    return max(common, default=narrowest_dim)


def _kept(member: Member, weight: float, cut: int | None) -> int:
    if weight == 0:
        return 0
    return member.dim if cut is None else cut


def _notices(config: FusionConfig, used: Sequence[Member], cut: int | None) -> tuple[str, ...]:
    untrained = [member for member in used if cut is not None and cut not in member.trained_dims]
    notices = [
        f"{member.name} was not trained to be cut from {member.dim} to {cut} dims: its part may lose quality"
        for member in untrained
    ]
    if config.method == "mean" and config.dim is None and untrained:
        notices.insert(0, f"the models have no trained dim in common: mean cuts all to the smallest, {cut} dims")
    if config.method == "mean" and len(used) > 1:
        notices.append(_MEAN_NOTICE)
    return tuple(notices)
