"""Members of different kinds, weighed at question time. Pure: names, kinds and weights in, a checked plan out.

Dense vectors can be fused before anybody asks. Words and learned sparse vectors have no space in common with them, so
their scores are added up once there is a question: each as multiples of its own standard deviation over all chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from soloist.checked import implicit, is_explicit
from soloist.config import FusionConfig
from soloist.errors import FusionError
from soloist.fusion.plan import checked_weights
from soloist.fusion_methods import FUSED, NO_FUSION
from soloist.types import MemberKind

# What the members of a kind weigh together where no weights are given. docs/words.md has what was measured.
DEFAULT_SHARES: Mapping[MemberKind, float] = {"dense": 0.7, "sparse": 0.3, "lexical": 0.3}
# The part of the first dense member, beside others. Equal parts lose .023, .012 and .009 nDCG@10 on the three sets.
FIRST_DENSE = 0.7
_DIGITS = 12  # of a weight: less than its rounding is no other weight


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridTerm:
    """One term of the sum: a member by its name, or `fused` for the fused vectors of all dense members."""

    name: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridPlan:
    """The terms of the sum, each with a weight above 0; the weights add up to 1."""

    terms: tuple[HybridTerm, ...]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term by its name."""
        return {term.name: term.weight for term in self.terms}

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        return {"terms": [{"name": term.name, "weight": term.weight} for term in self.terms]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> HybridPlan:
        """The plan that `to_dict` gave.

        Raises:
            FusionError: it is not such a value.
        """
        try:
            return cls(
                terms=tuple(HybridTerm(name=term["name"], weight=float(term["weight"])) for term in value["terms"])
            )
        except (TypeError, KeyError, ValueError) as exc:
            raise FusionError(f"the saved hybrid plan does not fit ({exc!r}): run again into a new folder") from exc


def plan_hybrid(weights: Mapping[str, float], kinds: Mapping[str, MemberKind], *, has_fused: bool) -> HybridPlan | None:
    """Settle the terms for the members of these kinds, in their order; None where no ranking needs them.

    That is a run of dense members alone, whose fused vectors rank, or a run of one member. `weights` are those that a
    user gave, for all members or for none. `has_fused` says whether the run has fused vectors: they stand in for
    the dense members, with the sum of the members' weights.

    Raises:
        FusionError: weights that `require_weights` refuses.
    """
    if len(kinds) < 2 or set(kinds.values()) <= {"dense"}:
        return None
    settled = member_weights(weights, kinds)
    dense = [name for name, kind in kinds.items() if kind == "dense"]
    terms: dict[str, float] = {}
    if has_fused and dense:
        terms[FUSED] = math.fsum(settled[name] for name in dense)
        settled = {name: weight for name, weight in settled.items() if name not in dense}
    terms |= settled
    return HybridPlan(terms=tuple(HybridTerm(name=name, weight=weight) for name, weight in terms.items() if weight))


def member_weights(weights: Mapping[str, float], kinds: Mapping[str, MemberKind]) -> dict[str, float]:
    """The weight of every member, which add up to 1: those given, or else the default shares of the kinds.

    Raises:
        FusionError: weights that `require_weights` refuses.
    """
    return dict(zip(kinds, checked_weights(weights or _default_weights(kinds), list(kinds)), strict=True))


def _default_weights(kinds: Mapping[str, MemberKind]) -> dict[str, float]:
    """Members of one kind have equal parts of its share, but the first of several dense members has most of theirs."""
    weights: dict[str, float] = {}
    for kind, share in DEFAULT_SHARES.items():
        names = [name for name, other in kinds.items() if other == kind]
        weights |= {name: share / len(names) for name in names}
        if kind == "dense" and len(names) > 1:
            rest = dict.fromkeys(names[1:], share * (1 - FIRST_DENSE) / (len(names) - 1))
            weights |= {names[0]: share * FIRST_DENSE, **rest}
    return weights


def dense_fusion(config: FusionConfig, kinds: Mapping[str, MemberKind]) -> FusionConfig:
    """How the dense members of a run are fused: as the settings say, by the weights of the dense members.

    Beside members of other kinds, a single dense member is fused only if the method or a dim was named.

    Raises:
        FusionError: all dense members weigh 0, so that their fused vectors would have no component; or a dim was given,
            and no member is dense; or weights were given for dense members alone that are not fused.
    """
    dense = [name for name, kind in kinds.items() if kind == "dense"]
    if len(dense) == len(kinds):
        if config.method == NO_FUSION and config.weights:
            raise FusionError("fusion is none, so no vectors are fused: leave out weights, or choose a fusion")
        return config
    if config.method == NO_FUSION:
        return FusionConfig(method=NO_FUSION)
    if not dense and config.dim is not None:
        raise FusionError(f"dim is {config.dim}, but no member has dense vectors that it could cut: leave out dim")
    is_named = config.dim is not None or is_explicit(config.method)
    if not dense or (len(dense) == 1 and not is_named):
        return FusionConfig(method=NO_FUSION)
    weights = dense_weights(config.weights, kinds)
    if weights and not any(weights.values()):
        raise FusionError(
            f"the weights of {' and '.join(dense)} are all 0, so their vectors cannot be fused: give one of them a "
            "weight above 0, or leave them out of the models"
        )
    return replace(config, weights=weights or implicit({}))


def dense_weights(weights: Mapping[str, float], kinds: Mapping[str, MemberKind]) -> dict[str, float]:
    """The weights of the dense members among themselves, given those of all members; none where all are alike.

    Beside members of other kinds they add up to 1, or are all 0. Those of the same proportions are the same numbers. So
    another weight of words makes no fused vector again: .49 and .21 of all, and .07 and .03, are .7 and .3.
    """
    dense = [name for name, kind in kinds.items() if kind == "dense"]
    if len(dense) == len(kinds):
        return dict(weights)
    asked = weights or (_default_weights(kinds) if len(dense) > 1 else {})
    own = {name: weight for name, weight in asked.items() if name in dense}
    if not any(own.values()):
        return own
    return {name: round(weight, _DIGITS) for name, weight in zip(own, checked_weights(own, list(own)), strict=True)}
