"""The settings of a run as keyword arguments, and the config that follows from them and from a first argument."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from soloist.config import GIVEN, RunConfig
from soloist.errors import ConfigError
from soloist.types import DTypeRequest, Isolation, MatmulRequest, Mode, OnBadInput, Packing, VectorDType

AnyPath = str | os.PathLike[str]
# A mapping has chunks by collection. Anything else is one collection: a table or an iterable (`soloist.sources.given`).
GivenChunks = Mapping[str, Any] | Iterable[Any]


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
    language: str
    sparse_top: int
    isolation: Isolation
    packing: Packing
    matmul: MatmulRequest
    stop_after: float | str
    reuse: Sequence[AnyPath]
    cluster: str
    mixed_cards: bool


def config_of(function: str, chunks: Any, settings: Mapping[str, Any]) -> tuple[RunConfig, object]:
    """The config of a call, and the chunks that are given with it, or None where they are in a folder.

    Raises:
        ConfigError: there are both a config and settings, or a setting has a wrong value.
    """
    if isinstance(chunks, RunConfig):
        if settings:
            raise ConfigError(
                f"{function} has a config, and also the setting {next(iter(settings))}: set it in the config"
            )
        return chunks, None
    if isinstance(chunks, (str, os.PathLike)):
        return RunConfig.from_mapping({**settings, "chunks_root": chunks or ""}, origin=function), None
    if chunks is None:
        raise ConfigError(f"{function} has None as its chunks: give a folder of chunks, or chunks")
    return RunConfig.from_mapping({**settings, "chunks_root": GIVEN}, origin=function), chunks
