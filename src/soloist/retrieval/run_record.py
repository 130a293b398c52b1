"""What run.json says of a finished run, as far as searching it needs. Values; knows nothing of models or vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soloist.config import RunConfig
from soloist.fusion import FusionPlan
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


def read_record(folder: RunFolder) -> RunRecord:
    """The record of a finished run.

    Raises:
        OutputError: run.json cannot be read, or does not hold what a run writes there.
    """
    return folder.read_json_as("run.json", _record)


def _record(summary: Any) -> RunRecord:
    models = [_model(each) for each in summary["models"]]
    fusion = summary["fusion"]
    return RunRecord(
        config=RunConfig.from_dict(summary["config"]),
        models={model.name: model for model in models},
        fusion=FusionPlan.from_dict(fusion) if fusion is not None else None,
        collections=tuple(each["name"] for each in summary["collections"] if each["chunks"]),
    )


def _model(summary: Any) -> ModelRecord:
    asked = {name: summary[name] for name in ModelRecord.__slots__ if name != "matryoshka_dims"}
    return ModelRecord(**asked, matryoshka_dims=tuple(summary.get("matryoshka_dims", ())))
