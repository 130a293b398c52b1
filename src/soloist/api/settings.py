"""The settings of a run as keyword arguments, and the config that follows from them and from a first argument."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from soloist.config import RunConfig
from soloist.errors import ConfigError
from soloist.types import DTypeRequest, Isolation, MatmulRequest, Mode, OnBadInput, Packing, VectorDType

AnyPath = str | os.PathLike[str]


class Settings(TypedDict, total=False):
    """The settings of `RunConfig`, those of fusion and source beside the others, as the command line names them."""

    out: AnyPath
    collections: Sequence[str]
    models: Sequence[str]
    weights: Mapping[str, float]
    mode: Mode
    fusion: str
    dim: int
    dtype: DTypeRequest
    vector_dtype: VectorDType
    accelerator: str
    token_budget: int
    on_bad_input: OnBadInput
    catalogue: AnyPath
    text_field: str
    id_field: str
    file_patterns: Sequence[str]
    shard_chunks: int
    lease_timeout_seconds: float
    lock_dir: AnyPath
    cache_dir: AnyPath
    isolation: Isolation
    packing: Packing
    matmul: MatmulRequest
    stop_after: float | str
    reuse: Sequence[AnyPath]


def config_of(function: str, chunks: Any, settings: Mapping[str, Any]) -> RunConfig:
    """The config of a call: `chunks` itself, or the settings with `chunks` as the folder of chunks.

    Raises:
        ConfigError: there are a config and settings, `chunks` is neither a config nor a path, or a setting cannot be
            what it is.
    """
    if isinstance(chunks, RunConfig):
        if settings:
            raise ConfigError(
                f"{function} has a config, and also the setting {next(iter(settings))}: set it in the config"
            )
        return chunks
    if not isinstance(chunks, (str, os.PathLike)):
        raise ConfigError(
            f"{function} has {chunks!r} as its chunks: give the path of a folder of chunks, or a soloist.RunConfig"
        )
    return RunConfig.from_mapping(settings, origin=function, chunks_root=Path(chunks) if chunks else "")
