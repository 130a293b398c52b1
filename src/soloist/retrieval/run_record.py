"""What run.json says of a finished run, as far as ranking its chunks needs. Values; loads no model and no vector."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from soloist.config import FusionConfig, RunConfig
from soloist.errors import ConfigError
from soloist.fusion import FusionPlan, HybridPlan, Member, member_weights, plan_fusion, plan_hybrid
from soloist.fusion_methods import FUSED
from soloist.stores import RunFolder
from soloist.types import DType, MemberKind

_DENSE: MemberKind = "dense"
_SPARSE: MemberKind = "sparse"
_LEXICAL: MemberKind = "lexical"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A model as it made the run. `seconds` is what encoding took, of `embedded` chunks.

    - `matryoshka_dims` are those that it was trained to be cut to; runs of earlier versions do not say.
    - `files` are the sha256 of the files that decide its vectors, by name. Runs of earlier versions do not have them.
    """

    name: str
    fingerprint: str
    revision: str | None
    dim: int
    dtype: DType
    query_prompt: str
    document_prompt: str = ""
    max_tokens: int | None = None
    seconds: float = 0.0
    embedded: int = 0
    matryoshka_dims: tuple[int, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsRecord:
    """A lexical member as it made the run. `seconds` is what cutting words took, of `embedded` chunks."""

    name: str
    fingerprint: str
    language: str
    seconds: float = 0.0
    embedded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EnsembleRecord:
    """The ensemble of a finished run, as far as a text becomes vectors by it.

    `models` have dense vectors, `sparse` are models with sparse ones, and `words` are the lexical members.
    `hybrid` weighs all of them where there are others than dense ones.
    """

    models: Mapping[str, ModelRecord]
    fusion: FusionPlan | None
    sparse: Mapping[str, ModelRecord] = field(default_factory=dict)
    words: Mapping[str, WordsRecord] = field(default_factory=dict)
    hybrid: HybridPlan | None = None

    @property
    def kinds(self) -> dict[str, MemberKind]:
        """The kind of each member by its name."""
        return {
            **dict.fromkeys(self.models, _DENSE),
            **dict.fromkeys(self.sparse, _SPARSE),
            **dict.fromkeys(self.words, _LEXICAL),
        }

    @property
    def posted(self) -> tuple[str, ...]:
        """The members with an inverted index and without dense vectors."""
        return (*self.sparse, *self.words)

    def is_dense(self, name: str) -> bool:
        """Whether the name is that of dense vectors, the fused ones among them."""
        return name == FUSED or name in self.models

    @property
    def fusion_plan(self) -> FusionPlan:
        """The run's own fusion.

        Raises:
            ConfigError: the run has none.
        """
        if self.fusion is None:
            raise self._not_fused()
        return self.fusion

    def require_model(self, name: str) -> None:
        """Refuse the name of a model that the run does not have.

        Raises:
            ConfigError: it is such a name, or that of a member without vectors.
        """
        if name in self.posted:
            has = "words" if name in self.words else "sparse vectors"
            choices = ", ".join(self.models) or "other runs"
            raise ConfigError(f"{name} has {has} and no dense vectors: choose one of {choices}")
        if name not in self.models:
            raise ConfigError(f"the run has no model {name}: choose one of {', '.join(self.models)}")

    def require_posted(self, name: str, among: Collection[str], what: str) -> None:
        """Refuse a name that is not one of these members without dense vectors. `what` says what they have.

        Raises:
            ConfigError: it is such a name.
        """
        if name not in among:
            way_on = f"choose one of {', '.join(among)}" if among else "the run has none"
            raise ConfigError(f"the run has no {what} of {name}: {way_on}")

    def require_vectors(self, name: str) -> None:
        """Refuse a name that is not a model of the run. `fused` is allowed if the run has fused vectors.

        Raises:
            ConfigError: it is such a name.
        """
        if name != FUSED:
            self.require_model(name)
        elif self.fusion is None:
            raise self._not_fused()

    def require_member(self, name: str) -> None:
        """Refuse the name of a member that the run does not have.

        Raises:
            ConfigError: it is such a name.
        """
        if name not in self.kinds:
            raise ConfigError(f"the run has no model {name}: choose one of {', '.join(self.kinds)}")

    def _not_fused(self) -> ConfigError:
        return ConfigError(f"the run has no fused vectors: choose one of its models, {', '.join(self.models)}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRecord(EnsembleRecord):
    """A finished run: its settings, models in the order of their passes, fusion, and collections in their order."""

    config: RunConfig
    collections: tuple[str, ...]

    def hybrid_plan(self, given: Mapping[str, float] | None = None) -> HybridPlan | None:
        """The run's own plan, or the one with these weights of all members; None for a run of one kind.

        Fused vectors are a term where the dense members have the proportions of the run. With others every dense member
        is a term of its own.

        Raises:
            FusionError: the weights are of other members, or are not weights.
        """
        if not given or self.hybrid is None:
            return self.hybrid
        is_as_fused = self.fusion is not None and self.fusion.has_proportions(given)
        return plan_hybrid(given, self.kinds, has_fused=is_as_fused)

    @property
    def members(self) -> list[Member]:
        """The models as a fusion sees them."""
        return [
            Member(name=model.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)
            for model in self.models.values()
        ]

    def weights(self, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """The weight of each member with a weight above 0: as given, else as the run has them, else equal ones.

        Raises:
            FusionError: the weights are of other models, or are not weights.
        """
        if self.posted:
            asked = given or self.config.fusion.weights
            return {name: weight for name, weight in member_weights(asked, self.kinds).items() if weight}
        fusion = self.fusion
        if given:
            fusion = plan_fusion(FusionConfig(weights=given), self.members)
        weights = fusion.weights if fusion is not None else [1 / len(self.models)] * len(self.models)
        return {model: weight for model, weight in zip(self.models, weights, strict=True) if weight}


def read_record(folder: RunFolder) -> RunRecord:
    """The record of a finished run.

    Raises:
        OutputError: run.json cannot be read, or does not hold what a run writes there.
    """
    return folder.read_json_as("run.json", _record)


def ensemble_of(summary: Any) -> dict[str, Any]:
    """The fields of `EnsembleRecord` from JSON values, as `run.json` has them."""
    models = [_model(model) for model in summary["models"]]
    kinds = {model["name"]: model.get("kind", _DENSE) for model in summary["models"]}
    words = [_words(member) for member in summary.get("words", ())]
    fusion, hybrid = summary["fusion"], summary.get("hybrid")
    return {
        "words": {member.name: member for member in words},
        "hybrid": HybridPlan.from_dict(hybrid) if hybrid is not None else None,
        "models": {model.name: model for model in models if kinds[model.name] == _DENSE},
        "sparse": {model.name: model for model in models if kinds[model.name] == _SPARSE},
        "fusion": FusionPlan.from_dict(fusion) if fusion is not None else None,
    }


def _record(summary: Any) -> RunRecord:
    return RunRecord(
        config=RunConfig.from_dict(summary["config"]),
        collections=tuple(row["name"] for row in summary["collections"] if row["chunks"]),
        **ensemble_of(summary),
    )


def _words(summary: Any) -> WordsRecord:
    return WordsRecord(**_values(summary, WordsRecord))


def _model(summary: Any) -> ModelRecord:
    values = _values(summary, ModelRecord)
    return ModelRecord(**{**values, "matryoshka_dims": tuple(values.get("matryoshka_dims", ()))})


def _values(summary: Any, record: type) -> dict[str, Any]:
    """The values of the fields of a record; those with a default may be missing."""
    return {
        each.name: summary[each.name]
        for each in fields(record)
        if each.name in summary or (each.default is MISSING and each.default_factory is MISSING)
    }
