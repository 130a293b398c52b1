"""What a run is asked to do. Values only: nothing here touches a file's content, a model or a device.

`RunConfig.from_toml` reads the same names that the command line uses for its options.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from soloist.errors import ConfigError
from soloist.formats import DEFAULT_FILE_PATTERNS
from soloist.types import DTypeRequest, FusionMethod, Isolation, Mode, OnBadInput, Packing, VectorDType

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_MODELS = ("jina-code-embeddings-1.5b", "bge-m3")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """How chunk files are found and read.

    `text_field` and `id_field` name the field (JSON, JSON Lines) or column (of tables) of the text and
    of the id; without `id_field`, the usual names are tried and then an id is derived.
    `file_patterns` are matched against file names, of which an ending `.gz`, `.bz2` or `.zst` is no part.
    """

    text_field: str = "text"
    id_field: str | None = None
    file_patterns: tuple[str, ...] = DEFAULT_FILE_PATTERNS
    on_bad_input: OnBadInput = "error"

    def __post_init__(self) -> None:
        _require_choice("on_bad_input", self.on_bad_input, get_args(OnBadInput))
        object.__setattr__(self, "file_patterns", _strings("file_patterns", self.file_patterns))
        if not self.text_field:
            raise ConfigError("text_field is empty: name the field that holds the text")


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """How the vectors of the models become one.

    `weights` maps every model's name to a non-negative number, 0 to leave it out of the fused vector;
    an empty mapping weighs all alike. `dim` cuts every model's vector to its
    first `dim` components before fusion; for `projection` it is the number of components of the fused vector.
    """

    method: FusionMethod = "concat"
    weights: Mapping[str, float] = field(default_factory=dict)
    dim: int | None = None

    def __post_init__(self) -> None:
        _require_choice("fusion", self.method, get_args(FusionMethod))
        if self.dim is not None and self.dim < 1:
            raise ConfigError(f"dim is {self.dim}: give a number of components of 1 or more")
        if self.method == "none" and (self.weights or self.dim is not None):
            raise ConfigError("fusion none makes no fused vector: leave out weights and dim, or choose another fusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run: which chunks, through which models, on what, into which folder.

    `shard_chunks` bounds the memory of a run (shards of very long chunks have fewer); `token_budget` is the number
    of padded tokens in a batch (None: as calibrated, else the device kind's own); `lease_timeout_seconds` is how
    long to wait for devices that another process holds (None: as long as it takes). `lock_dir` stands for the
    machine: processes that name the same one respect each other's leases. `cache_dir` keeps what runs measure for
    later plans (None: the user's cache folder). With `isolation="process"` each pass runs in a process of its own,
    at whose end the driver has the whole of its memory back, contexts included. `packing` says where rows lie one
    behind the other without padding: `auto` on the CPU, `on` on devices too, for the models that allow for it.
    After `stop_after` seconds (or a duration such as "8h30m") the run ends with the shard in work; the same config
    goes on with it. `reuse` names other runs whose vectors of the same texts by the same models are taken over.
    `vector_dtype` is what vectors are stored as, whatever the models compute in: in float16 each number is rounded
    to the nearest. A path may be given as a string, models and collections as any sequence of strings; they become
    what the fields say.

        RunConfig(chunks_root="chunks", out="run", models=["wordllama"], fusion=FusionConfig(method="none"))
    """

    chunks_root: Path
    out: Path
    collections: tuple[str, ...] = ()
    models: tuple[str, ...] = DEFAULT_MODELS
    mode: Mode = "exclusive"
    fusion: FusionConfig = field(default_factory=FusionConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    dtype: DTypeRequest = "auto"
    vector_dtype: VectorDType = "float32"
    accelerator: str = "auto"
    token_budget: int | None = None
    shard_chunks: int = 4096
    catalogue: Path | None = None
    lock_dir: Path | None = None
    lease_timeout_seconds: float | None = None
    cache_dir: Path | None = None
    isolation: Isolation = "allocator"
    packing: Packing = "auto"
    stop_after: float | None = None
    reuse: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("chunks_root", "out"):
            object.__setattr__(self, name, _path(name, getattr(self, name)))
        object.__setattr__(self, "collections", _strings("collections", self.collections))
        _check_models_and_devices(self)
        if not isinstance(self.reuse, Sequence) or isinstance(self.reuse, str):
            raise ConfigError(f"reuse is {self.reuse!r}: give a list of run folders")
        object.__setattr__(self, "reuse", tuple(_path("reuse", each) for each in self.reuse))
        object.__setattr__(self, "stop_after", _seconds("stop_after", self.stop_after))
        _require_choice("mode", self.mode, get_args(Mode))
        _require_choice("vector_dtype", self.vector_dtype, get_args(VectorDType))
        _require_choice("isolation", self.isolation, get_args(Isolation))
        _require_choice("packing", self.packing, get_args(Packing))
        if self.token_budget is not None and self.token_budget < 1:
            raise ConfigError(f"token_budget is {self.token_budget}: give a number of tokens of 1 or more")
        if self.shard_chunks < 1:
            raise ConfigError(f"shard_chunks is {self.shard_chunks}: give a number of chunks of 1 or more")

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-ready values, in the field names' own order."""
        return _plain(dataclasses.asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The config that `to_dict` wrote.

        Raises:
            ConfigError: the values are of another version.
        """
        flat = {key: value for key, value in values.items() if key not in ("fusion", "source") and value is not None}
        fusion, source = values["fusion"], values["source"]
        nested = {key: fusion[field] for key, field in _FUSION.items()} | {key: source[key] for key in _SOURCE}
        return cls.from_mapping(flat, origin="the run", **nested)

    def fingerprint(self) -> str:
        """A digest of these settings, without those that only say where and when: 16 hex digits.

        Models and chunks have digests of their own: a model's fingerprint covers weights, prompts, limit and dtype.
        """
        decisive = {key: value for key, value in self.to_dict().items() if key not in _WHERE_AND_WHEN}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_toml(cls, path: Path, **overrides: Any) -> RunConfig:
        """Read a config file; `overrides` that are not None win over it.

        Raises:
            ConfigError: the file is missing, is not TOML, or names a setting that does not exist.
        """
        return cls.from_mapping(read_toml(path, "config file"), origin=str(path), **overrides)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, origin: str, **overrides: Any) -> RunConfig:
        """Build a config from flat settings, e.g. `{"models": ["a"], "fusion": "mean", "dim": 256}`."""
        settings = {**values, **{key: value for key, value in overrides.items() if value is not None}}
        unknown = sorted(set(settings) - _SETTINGS)
        if unknown:
            raise ConfigError(
                f"{origin} has the unknown setting {unknown[0]!r}: known are {', '.join(sorted(_SETTINGS))}"
            )
        for needed in ("chunks_root", "out"):
            if needed not in settings:
                raise ConfigError(f"{origin} does not say {needed}: add it")
        return cls(**_nest(settings, origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """Of which models to measure the token budgets, and on what. The fields are those of a run by the same names.

    `sample_seconds` is about how long one measurement takes.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    dtype: DTypeRequest = "auto"
    accelerator: str = "auto"
    catalogue: Path | None = None
    lock_dir: Path | None = None
    lease_timeout_seconds: float | None = None
    cache_dir: Path | None = None
    sample_seconds: float = 3.0

    def __post_init__(self) -> None:
        _check_models_and_devices(self)
        if not (math.isfinite(self.sample_seconds) and self.sample_seconds > 0):
            raise ConfigError(f"sample_seconds is {self.sample_seconds}: give seconds of more than 0")


def _check_models_and_devices(config: RunConfig | CalibrationConfig) -> None:
    """Make the fields that both have what they say.

    Raises:
        ConfigError: one of them cannot be that.
    """
    for name in ("catalogue", "lock_dir", "cache_dir"):
        object.__setattr__(config, name, _path(name, getattr(config, name)))
    object.__setattr__(config, "models", _strings("models", config.models))
    _require_choice("dtype", config.dtype, get_args(DTypeRequest))
    if not config.models:
        raise ConfigError("no models are named: give at least one, e.g. --models all-MiniLM-L6-v2")
    timeout = config.lease_timeout_seconds
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise ConfigError(
            f"lease_timeout_seconds is {timeout}: give seconds of 0 or more, or leave it out to wait without end"
        )


_WHERE_AND_WHEN = {
    "chunks_root", "out", "lock_dir", "lease_timeout_seconds", "accelerator", "mode", "catalogue", "cache_dir",
    "isolation", "stop_after", "reuse",
}  # fmt: skip
_DURATION = re.compile(
    r"(?:(?P<hours>\d+(?:\.\d+)?)h)?(?:(?P<minutes>\d+(?:\.\d+)?)m)?(?:(?P<seconds>\d+(?:\.\d+)?)s)?"
)
_LISTS = {"collections", "models", "file_patterns", "reuse"}
_NUMBERS: dict[str, type | tuple[type, ...]] = {
    "dim": int, "token_budget": int, "shard_chunks": int, "lease_timeout_seconds": (int, float),
}  # fmt: skip
_FUSION = {"fusion": "method", "weights": "weights", "dim": "dim"}
_SOURCE = {name: name for name in ("text_field", "id_field", "file_patterns", "on_bad_input")}
_SETTINGS = {f.name for f in dataclasses.fields(RunConfig)} - {"source"} | set(_FUSION) | set(_SOURCE)


def _nest(settings: dict[str, Any], origin: str) -> dict[str, Any]:
    converted = {key: _convert(key, value, origin) for key, value in settings.items()}
    fusion = {field: converted.pop(key) for key, field in _FUSION.items() if key in converted}
    source = {field: converted.pop(key) for key, field in _SOURCE.items() if key in converted}
    return {**converted, "fusion": FusionConfig(**fusion), "source": SourceConfig(**source)}


def _convert(key: str, value: Any, origin: str) -> Any:
    expected = _NUMBERS.get(key)
    if expected is not None and (isinstance(value, bool) or not isinstance(value, expected)):
        raise ConfigError(f"{origin} sets {key} to {value!r}: give a number")
    if key in _LISTS:
        if not _are_strings(value):
            raise ConfigError(f"{origin} sets {key} to {value!r}: give a list of strings")
        return tuple(value)
    if key == "stop_after" and not isinstance(value, bool) and isinstance(value, (int, float)):
        return value
    if key == "weights":
        return _weights(value, origin)
    if expected is None and not isinstance(value, (str, Path)):
        raise ConfigError(f"{origin} sets {key} to {value!r}: give a string")
    return value


def _weights(value: Any, origin: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{origin} sets weights to {value!r}: give a table of model = number")
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ConfigError(f"{origin} sets the weight of {name} to {weight!r}: give a number")
    return {name: float(weight) for name, weight in value.items()}


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The content of a TOML file; `kind` is what an error calls it, e.g. "config file".

    Raises:
        ConfigError: the file is missing, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc  # an OSError's own text has the path once more
        raise ConfigError(f"the {kind} {path} cannot be read ({reason}): correct it, or name another") from exc


def seconds_of(name: str, text: str) -> float:
    """A duration such as `9h`, `8h30m`, `45m` or `90s`, in seconds; `name` is what an error calls it.

    Raises:
        ConfigError: the text is no duration, or one of 0.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    parts = {unit: float(value) for unit, value in found.groupdict().items() if value} if found is not None else {}
    seconds = parts.get("hours", 0) * 3600 + parts.get("minutes", 0) * 60 + parts.get("seconds", 0)
    if not seconds:
        raise ConfigError(f"{name} is {text!r}: give hours, minutes and seconds, such as 9h, 8h30m, 45m or 90s")
    return seconds


def _seconds(name: str, value: Any) -> float | None:
    if isinstance(value, str):
        return seconds_of(name, value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ConfigError(f"{name} is {value!r}: give seconds, or a duration such as 8h30m")
    return float(value)


def _path(name: str, value: Any) -> Path | None:
    if value is None and name not in ("chunks_root", "out"):
        return None
    if not isinstance(value, (str, os.PathLike)) or value == "":
        raise ConfigError(f"{name} is {value!r}: give a path")
    if "\0" in os.fspath(value):
        raise ConfigError(f"{name} is {value!r}, with a NUL in it, which no path has: give a path")
    return Path(value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not _are_strings(value):
        raise ConfigError(f"{name} is {value!r}: give a list of strings")
    return tuple(value)


def _are_strings(value: Any) -> bool:
    """A string is a sequence of strings too, its letters: never what was meant."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
