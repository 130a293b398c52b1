"""The models of a run as a worker stages them once more: what the driving process has decided is not decided again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from soloist.config import RunConfig
from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder
from soloist.events import ListSink
from soloist.models.loading import StagedModel
from soloist.sizing.batch_limits import plan_memory
from soloist.sizing.budgets import Budget
from soloist.sizing.measurements import MeasurementCache
from soloist.sizing.run_plan import RunPlan
from soloist.staging import encoders_of, select_models, stage_all, together
from soloist.stopping import Stop
from soloist.types import Matmul


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decided:
    """What the driving process has decided of models: their fingerprints, the libraries that multiply, and budgets.

    `growths` are what it has measured of their memory (see `PlannedModel`): another machine has measured otherwise.
    """

    fingerprints: Mapping[str, str]
    matmuls: Mapping[str, Matmul]
    budgets: Mapping[str, Budget]
    growths: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        budgets = {model: asdict(budget) for model, budget in self.budgets.items()}
        return {
            "models": dict(self.fingerprints), "matmuls": dict(self.matmuls), "budgets": budgets,
            "growths": dict(self.growths),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decided:
        """What `to_dict` gave; it may stand among other values."""
        budgets = {model: Budget(**budget) for model, budget in values["budgets"].items()}
        return cls(fingerprints=values["models"], matmuls=values["matmuls"], budgets=budgets, growths=values["growths"])


def decided_of(encoders: Mapping[str, Encoder], plan: RunPlan) -> Decided:
    """What has been decided of the models that these encoders serve."""
    members = {model: encoder.staged.member(model) for model, encoder in encoders.items()}
    return Decided(
        fingerprints={model: member.fingerprint for model, member in members.items()},
        matmuls={model: encoder.staged.matmul for model, encoder in encoders.items()},
        budgets={model: plan.budgets[model] for model in encoders},
        growths={model: bound.growth for model in encoders for bound in plan.limits[model].bounds},
    )


def staged_again(config: RunConfig, decided: Decided, accelerator: Accelerator, stop: Stop) -> dict[str, StagedModel]:
    """The models, in host memory. Nobody is told: the driving process has told of its own.

    Raises:
        SoloistError: a model cannot be loaded.
    """
    specs = {name: spec for name, spec in select_models(config).items() if name in decided.fingerprints}
    return stage_all(
        specs, config, accelerator, ListSink(), stop.check, matmul_of=lambda name, _: decided.matmuls.get(name, "auto")
    )


def planned_again(
    config: RunConfig, decided: Decided, staged: Mapping[str, StagedModel], accelerator: Accelerator
) -> tuple[dict[str, Encoder], RunPlan]:
    """The encoders and the plan that the driving process has."""
    silent = ListSink()
    encoders = together(encoders_of(staged, config, accelerator, silent), config, accelerator)
    measurements = MeasurementCache(config.cache_dir)
    plan = plan_memory(config, encoders, decided.budgets, accelerator, measurements, silent, decided.growths)
    return encoders, plan
