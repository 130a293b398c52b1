"""What a run is asked to do. Values only: nothing here touches a file's content, a model or a device.

`RunConfig.from_toml` reads the same names that the command line uses for its options. A setting that is left out, or
None, has its default here and is marked as `implicit`: a run folder's own settings stand in for it (see
`soloist.engine.resume.kept_settings`).
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, get_args

from soloist.checked import (
    a_flag,
    a_path,
    a_string,
    implicit,
    is_explicit,
    number,
    paths,
    require_choice,
    seconds,
    seconds_of,
    strings,
    weights,
    whole_number,
)
from soloist.errors import ConfigError
from soloist.formats import DEFAULT_FILE_PATTERNS
from soloist.fusion_methods import DEFAULT_FUSION, NO_FUSION, fusion_choices
from soloist.languages import DEFAULT_LANGUAGE, LANGUAGES
from soloist.toml_files import read_toml
from soloist.types import DTypeRequest, Isolation, MatmulRequest, Mode, OnBadInput, Packing, VectorDType

__all__ = [
    "DEFAULT_FILE_PATTERNS", "DEFAULT_MODELS", "GIVEN", "CalibrationConfig", "FusionConfig", "GivenChunks", "RunConfig",
    "SourceConfig", "read_toml", "seconds_of",
]  # fmt: skip

DEFAULT_MODELS = ("jina-code-embeddings-1.5b", "bge-m3")


class GivenChunks(enum.Enum):
    """Stands in the place of a folder of chunks."""

    IN_PYTHON = "given in Python"


GIVEN = GivenChunks.IN_PYTHON


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """How chunk files are found and read.

    Attributes:
        text_field: the field (JSON, JSON Lines) or column (tables) of the text.
        id_field: the field of the id. None tries the usual names, and then derives an id.
        file_patterns: are matched against file names without an ending `.gz`, `.bz2` or `.zst`.
        on_bad_input: `error` stops at the first fault. `skip` leaves it out and lists it.
    """

    text_field: str = implicit("text")
    id_field: str | None = None
    file_patterns: tuple[str, ...] = implicit(DEFAULT_FILE_PATTERNS)
    on_bad_input: OnBadInput = implicit("error")

    def __post_init__(self) -> None:
        _check_types(self)
        require_choice("on_bad_input", self.on_bad_input, get_args(OnBadInput))
        for name in ("text_field", "id_field"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty: name the field that holds the {name.removesuffix('_field')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """How the vectors of the models become one.

    A single model is not fused unless one of the three is named: its fused vectors would only repeat its own.

    Attributes:
        method: the name of a fusion, or `none`.
        weights: a number of 0 or more for each model; 0 leaves it out of the fused vector. Empty weighs all alike.
            With `none` they are only for members of several kinds, which are weighed for each question.
        dim: cuts each model's vector to its first `dim` components before fusion. For `projection` it is the
            number of components of the fused vector.
    """

    method: str = implicit(DEFAULT_FUSION)
    weights: Mapping[str, float] = field(default_factory=lambda: implicit({}))
    dim: int | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        require_choice("fusion", self.method, fusion_choices())
        if self.dim is not None and self.dim < 1:
            raise ConfigError(f"dim is {self.dim}: give 1 or more components")
        if self.method == NO_FUSION and self.dim is not None:
            raise ConfigError("fusion is none, so no vectors are fused: leave out dim, or choose a fusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run: which chunks, through which models, on what, into which folder.

        RunConfig(chunks_root="chunks", out="run", models=["all-MiniLM-L6-v2", "wordllama"], fusion="none")

    A path may be a string, models and collections any sequence of strings, and a fusion the name of its method.
    Where `out` is the folder of a run, these stay as they are there unless they are named here: models, collections,
    catalogue, fusion, source, dtypes, language, sparse_top, packing, matmul and shard_chunks.

    Attributes:
        chunks_root: the folder with the collections of chunks. `GIVEN` where Python gives the chunks.
        out: the folder to write: a new one, or that of a run.
        collections: the names of those to embed; empty takes all.
        models: catalogue names, folders or hub ids, in the order of their passes.
        mode: `exclusive` has one model at a time on all devices, `standard` has all models there together.
        fusion: how the models' vectors become one.
        source: how chunk files are found and read.
        dtype: what the models compute in.
        vector_dtype: what vectors are stored as. In float16 each number is rounded to the nearest.
        language: how a member of words cuts texts, see `soloist.languages`. Models do not read it.
        sparse_top: how many of its largest weights a document's sparse vector keeps; 0 keeps all.
        accelerator: `auto`, `cpu`, `cuda`, `cuda:0,1` or `simulated:2xT4`.
        token_budget: padded tokens in a batch. None takes what was calibrated, else what suits the kind of device.
        shard_chunks: chunks in a shard, which bounds the memory of a run. Shards of very long chunks have fewer.
        catalogue: a TOML file with models of your own.
        lock_dir: where the devices' locks are. Processes that name the same folder respect each other's leases.
        lease_timeout_seconds: how long to wait for devices that another process holds. None waits without a limit.
        cache_dir: where runs keep what they measure for later plans. None is the user's cache folder.
        isolation: with `process` each pass runs in a process of its own. At its end the driver has all of its memory
            back, contexts included.
        packing: where rows lie one behind the other without padding: `auto` on the CPU, `on` on devices too, for
            the models that allow it.
        matmul: the library that multiplies on the CPU: `torch` leaves the choice to torch, `onednn` packs a network's
            weights once, `onednn+numpy` has numpy's library in attention too. `auto` is what the folder's vectors
            were made with, else the fastest.
        stop_after: seconds, or a duration such as "8h30m", after which the run ends with the present shard. The same
            config continues it.
        reuse: other runs. Vectors that the same models made of the same texts are taken from there.
        cluster: the Ray cluster whose nodes compute the run: `auto` is the one of this machine, `HOST:PORT` another,
            and `local:3` starts three nodes on this machine. None computes the run on this machine alone.
        mixed_cards: whether the nodes of a cluster may have different cards, so that last bits depend on the node.
    """

    chunks_root: Path | GivenChunks
    out: Path
    collections: tuple[str, ...] = implicit(())
    models: tuple[str, ...] = implicit(DEFAULT_MODELS)
    mode: Mode = "exclusive"
    fusion: FusionConfig = field(default_factory=FusionConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    dtype: DTypeRequest = implicit("auto")
    vector_dtype: VectorDType = implicit("float32")
    language: str = implicit(DEFAULT_LANGUAGE)
    sparse_top: int = implicit(0)
    accelerator: str = "auto"
    token_budget: int | None = None
    shard_chunks: int = implicit(4096)
    catalogue: Path | None = None
    lock_dir: Path | None = None
    lease_timeout_seconds: float | None = None
    cache_dir: Path | None = None
    isolation: Isolation = "allocator"
    packing: Packing = implicit("auto")
    matmul: MatmulRequest = implicit("auto")
    stop_after: float | None = None
    reuse: tuple[Path, ...] = ()
    cluster: str | None = None
    mixed_cards: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.fusion, str):
            object.__setattr__(self, "fusion", FusionConfig(method=self.fusion))
        _check_types(self)
        _check_models_and_devices(self)
        require_choice("mode", self.mode, get_args(Mode))
        require_choice("vector_dtype", self.vector_dtype, get_args(VectorDType))
        require_choice("language", self.language, tuple(LANGUAGES))
        require_choice("isolation", self.isolation, get_args(Isolation))
        require_choice("packing", self.packing, get_args(Packing))
        require_choice("matmul", self.matmul, get_args(MatmulRequest))
        if self.token_budget is not None and self.token_budget < 1:
            raise ConfigError(f"token_budget is {self.token_budget}: give 1 or more tokens")
        if self.sparse_top < 0:
            raise ConfigError(f"sparse_top is {self.sparse_top}: give 1 or more weights, or 0 to keep all")
        if self.shard_chunks < 1:
            raise ConfigError(f"shard_chunks is {self.shard_chunks}: give 1 or more chunks")
        if self.cluster is not None and self.isolation == "process":
            raise ConfigError(
                "isolation is process, but on a cluster one process computes all passes: leave out isolation or cluster"
            )

    @property
    def root(self) -> Path | None:
        """The folder of chunks; None where Python gives the chunks."""
        return self.chunks_root if isinstance(self.chunks_root, Path) else None

    @property
    def shared_dtype(self) -> DTypeRequest | None:
        """The dtype that several models are asked for; None where the run has one model."""
        return self.dtype if len(self.models) > 1 else None

    def settings(self) -> dict[str, Any]:
        """All settings by their flat names, as `from_mapping` takes them: those of fusion and source beside the others.

        {"chunks_root": Path("chunks"), ..., "fusion": "concat", "weights": {}, "dim": None, "text_field": "text"}
        """
        names = [field.name for field in dataclasses.fields(self) if field.name not in _NESTED]
        flat = {name: getattr(self, name) for name in names}
        flat |= {name: getattr(self.fusion, inner) for name, inner in _FUSION.items()}
        return flat | {name: getattr(self.source, name) for name in _SOURCE}

    def named(self) -> dict[str, Any]:
        """The settings that somebody gave, by their flat names."""
        return {name: value for name, value in self.settings().items() if is_explicit(value)}

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-ready values, in the field names' own order.

        Without the language, the cut of sparse vectors and the cluster where they are the defaults: earlier versions
        had none.
        """
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        usual = {"language": DEFAULT_LANGUAGE, "sparse_top": 0, "cluster": None, "mixed_cards": False}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The config that `to_dict` wrote.

        Raises:
            ConfigError: the values are of another version.
        """
        flat = {key: value for key, value in values.items() if key not in _NESTED and value is not None}
        flat.setdefault("chunks_root", GIVEN)
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
                f"{origin} has the unknown setting {unknown[0]!r}: choose one of {', '.join(sorted(_SETTINGS))}"
            )
        for needed in ("chunks_root", "out"):
            if needed not in settings:
                raise ConfigError(f"{origin} does not set {needed}: add it")
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
        _check_types(self)
        _check_models_and_devices(self)
        if not (math.isfinite(self.sample_seconds) and self.sample_seconds > 0):
            raise ConfigError(f"sample_seconds is {self.sample_seconds}: give more than 0 seconds")


def _check_models_and_devices(config: RunConfig | CalibrationConfig) -> None:
    """Look at the fields that both have.

    Raises:
        ConfigError: one of them cannot be that.
    """
    require_choice("dtype", config.dtype, get_args(DTypeRequest))
    if not config.models:
        raise ConfigError("no models are named: give at least one, e.g. --models all-MiniLM-L6-v2")
    timeout = config.lease_timeout_seconds
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise ConfigError(
            f"lease_timeout_seconds is {timeout}: give 0 or more seconds, or leave it out to wait without a limit"
        )


_WHERE_AND_WHEN = {
    "chunks_root", "out", "lock_dir", "lease_timeout_seconds", "accelerator", "mode", "catalogue", "cache_dir",
    "isolation", "stop_after", "reuse", "cluster", "mixed_cards",
}  # fmt: skip
_Check = Callable[[str, Any], Any]
_TYPES: Mapping[str, _Check] = {
    **dict.fromkeys(("chunks_root", "out", "catalogue", "lock_dir", "cache_dir"), a_path),
    **dict.fromkeys(("collections", "models", "file_patterns"), strings),
    **dict.fromkeys(("dim", "token_budget", "sparse_top", "shard_chunks"), whole_number),
    **dict.fromkeys(("lease_timeout_seconds", "sample_seconds"), number),
    "reuse": paths, "stop_after": seconds, "weights": weights, "mixed_cards": a_flag,
}  # fmt: skip
_FUSION = {"fusion": "method", "weights": "weights", "dim": "dim"}
_SOURCE = {name: name for name in ("text_field", "id_field", "file_patterns", "on_bad_input")}
_NESTED: Mapping[str, type] = {"fusion": FusionConfig, "source": SourceConfig}
_CHOICES = {
    "fusion", "method", "mode", "dtype", "vector_dtype", "isolation", "packing", "matmul", "on_bad_input", "language",
}  # fmt: skip
_SETTINGS = {f.name for f in dataclasses.fields(RunConfig)} - {"source"} | set(_FUSION) | set(_SOURCE)


def _check_types(config: RunConfig | CalibrationConfig | FusionConfig | SourceConfig) -> None:
    """Make every field what it says; None is what a field without a value has.

    Raises:
        ConfigError: one of them cannot be that.
    """
    for setting in dataclasses.fields(config):
        name, value = setting.name, getattr(config, setting.name)
        if value is None and setting.default is not MISSING:
            value = setting.default
        elif value is None and setting.default_factory is not MISSING:
            value = setting.default_factory()
        elif isinstance(config, RunConfig) and name in _NESTED:
            _require_nested(name, value)
        elif value is GIVEN:
            continue
        elif name not in _CHOICES:  # whose sentence names the choices
            value = _check_of(name)(f"{name} is {value!r}", value)
        object.__setattr__(config, name, value)


def _check_of(name: str) -> _Check:
    return _TYPES.get(name, a_string)


def _require_nested(name: str, value: Any) -> None:
    kind = _NESTED[name]
    if not isinstance(value, kind):
        also = "a method such as 'mean', or " if name == "fusion" else ""
        raise ConfigError(f"{name} is {value!r}: give {also}a soloist.{kind.__name__}")


def _nest(settings: dict[str, Any], origin: str) -> dict[str, Any]:
    converted = {key: _convert(key, value, origin) for key, value in settings.items()}
    fusion = {field: converted.pop(key) for key, field in _FUSION.items() if key in converted}
    source = {field: converted.pop(key) for key, field in _SOURCE.items() if key in converted}
    return {**converted, "fusion": FusionConfig(**fusion), "source": SourceConfig(**source)}


def _convert(key: str, value: Any, origin: str) -> Any:
    """A value of the right kind, else an error that says where it stands. Its content is checked later."""
    check = _check_of(key)
    if value is None or value is GIVEN or check is seconds:
        return value
    said = f"{origin} sets {key} to {value!r}"
    if check is a_path:
        return value if isinstance(value, Path) else a_string(said, value)
    return check(said, value)


def _plain(value: Any) -> Any:
    if value is GIVEN:
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
