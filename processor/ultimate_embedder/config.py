"""The settings of the validation plan, and their names in soloist. Values only: no file, no environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from soloist.config import DEFAULT_MODELS, FusionConfig
from soloist.errors import ConfigError
from soloist.types import DTypeRequest

AggregationMethod = Literal["weighted_average", "concat"]
Precision = Literal["fp16", "bf16", "fp32", "auto"]

FUSION_METHODS: Mapping[str, str] = {"weighted_average": "mean", "concat": "concat"}
DTYPES: Mapping[str, DTypeRequest] = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "auto": "auto"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """The models that embed every chunk, and how their vectors become one.

    Exclusive mode leases the devices to one model at a time. Otherwise all models are on the devices together, and
    encode each shard of chunks in turn. `matryoshka_dim` cuts every model's vector before aggregation. None cuts a
    weighted average to the largest dim that every model has, and leaves a concatenation whole.

    Raises:
        ConfigError: a setting cannot be used, or two settings contradict each other.
    """

    ensemble_models: Sequence[str] = DEFAULT_MODELS
    sequential_passes: bool = True
    exclusive_mode: bool = False
    aggregation_method: AggregationMethod = "weighted_average"
    model_weights: Mapping[str, float] | None = None
    matryoshka_dim: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.ensemble_models, str) or not self.ensemble_models:
            raise ConfigError(f"ensemble_models is {self.ensemble_models!r}: give a list of model names")
        if self.exclusive_mode and not self.sequential_passes:
            raise ConfigError(
                "exclusive_mode=True contradicts sequential_passes=False: exclusive mode runs one model after "
                "the other, so set sequential_passes=True"
            )
        if not self.sequential_passes:
            raise ConfigError(
                "sequential_passes=False is not supported, because models compute one after the other in every mode: "
                "set sequential_passes=True"
            )
        if self.aggregation_method not in FUSION_METHODS:
            raise ConfigError(
                f"aggregation_method is {self.aggregation_method!r}: choose one of {', '.join(FUSION_METHODS)}"
            )
        # The caller's own list and dict may change later.
        object.__setattr__(self, "ensemble_models", tuple(self.ensemble_models))
        if self.model_weights is not None:
            object.__setattr__(self, "model_weights", dict(self.model_weights))

    def fusion(self) -> FusionConfig:
        """The same aggregation in soloist's terms."""
        return FusionConfig(
            method=FUSION_METHODS[self.aggregation_method],
            weights=self.model_weights or {},
            dim=self.matryoshka_dim,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KaggleGPUConfig:
    """The devices of the plan: two GPUs of 15.83 GB (10^9 bytes), computing in float16.

    At most `device_count` CUDA devices are used. `vram_per_gpu_gb` is the size of simulated devices
    (`SOLOIST_ACCELERATOR=simulated`); the size of real devices is measured. `base_batch_size` is accepted, because the
    plan has it, but changes nothing: batches are planned in tokens, so that all modes have the same ones.

    Raises:
        ConfigError: a number is not positive, or the precision does not exist.
    """

    device_count: int = 2
    vram_per_gpu_gb: float = 15.83
    precision: Precision = "fp16"
    base_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise ConfigError(f"precision is {self.precision!r}: choose one of {', '.join(DTYPES)}")
        for name in ("device_count", "vram_per_gpu_gb", "base_batch_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}: give a number above 0")
