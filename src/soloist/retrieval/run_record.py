"""What run.json says of a finished run, as far as ranking its chunks needs. Values; loads no model and no vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soloist.config import FusionConfig, RunConfig
from soloist.errors import ConfigError
from soloist.fusion import FusionPlan, Member, plan_fusion
from soloist.fusion_methods import FUSED
from soloist.stores import RunFolder
from soloist.types import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A model as it made the run. `seconds` is what encoding took, of `embedded` chunks.

    `matryoshka_dims` are those that it was trained to be cut to; runs of earlier versions do not say.
    """

    name: str
    fingerprint: str
    revision: str | None
    dim: int
    dtype: DType
    query_prompt: str
    seconds: float
    embedded: int
    matryoshka_dims: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRecord:
    """A finished run: its settings, models in the order of their passes, fusion, and collections in their order."""

    config: RunConfig
    models: Mapping[str, ModelRecord]
    fusion: FusionPlan | None
    collections: tuple[str, ...]

    @property
    def members(self) -> list[Member]:
        """The models as a fusion sees them."""
        return [
            Member(name=model.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)
            for model in self.models.values()
        ]

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
            ConfigError: it is such a name.
        """
        if name not in self.models:
            raise ConfigError(f"the run has no model {name}: choose one of {', '.join(self.models)}")

    def require_vectors(self, name: str) -> None:
        """Refuse a name that is not a model of the run. `fused` is allowed if the run has fused vectors.

        Raises:
            ConfigError: it is such a name.
        """
        if name != FUSED:
            self.require_model(name)
        elif self.fusion is None:
            raise self._not_fused()

    def _not_fused(self) -> ConfigError:
        return ConfigError(f"the run has no fused vectors: choose one of its models, {', '.join(self.models)}")

    def weights(self, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """The weight of each model with a weight above 0: as given, else as in the run's own fusion, else equal ones.

        Raises:
            FusionError: the weights are of other models, or are not weights.
        """
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


def _record(summary: Any) -> RunRecord:
    models = [_model(model) for model in summary["models"]]
    fusion = summary["fusion"]
    return RunRecord(
        config=RunConfig.from_dict(summary["config"]),
        models={model.name: model for model in models},
        fusion=FusionPlan.from_dict(fusion) if fusion is not None else None,
        collections=tuple(row["name"] for row in summary["collections"] if row["chunks"]),
    )


def _model(summary: Any) -> ModelRecord:
    values = {name: summary[name] for name in ModelRecord.__slots__ if name != "matryoshka_dims"}
    return ModelRecord(**values, matryoshka_dims=tuple(summary.get("matryoshka_dims", ())))
