"""What a run folder was made with stays, unless a command names something else. Both are said before a byte changes.

A folder says what it was made with in state.json while its run is not finished, and in run.json afterwards. Knows
configs, names of models and files; runs no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soloist.checked import is_explicit
from soloist.config import FusionConfig, RunConfig
from soloist.errors import ConfigError, OutputError, SoloistError
from soloist.events import EventSink, Notice
from soloist.fusion import FusionPlan, HybridPlan
from soloist.fusion_methods import NO_FUSION
from soloist.stores import RunFolder
from soloist.stores.atomic import disk_errors
from soloist.stores.layout import STATE

# What a folder keeps, and what comes of it where a command names something else; "" where that is said elsewhere: of
# dtypes and catalogues by the fingerprints of the models, which alone tell whether anything changes.
_KEPT: Mapping[str, str] = {
    "models": "",
    "collections": "the others are added",
    "catalogue": "",
    "dtype": "",
    "vector_dtype": "",
    "language": "the words of all chunks are cut again",
    "sparse_top": "the sparse vectors of all chunks are computed again",
    "packing": "the last bits of new vectors may differ from those of the old ones",
    "matmul": "the last bits of new vectors may differ from those of the old ones",
    "shard_chunks": "the run's files are cut again, and no text is embedded again",
    "text_field": "a chunk whose text differs is embedded again",
    "id_field": "rows get new ids, here and in exports",
    "file_patterns": "chunks of files with these names are added, and chunks of all other files are removed",
    "on_bad_input": "it holds for all chunks of the run",
}
_FUSION = ("fusion", "weights", "dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSettings:
    """A config whose settings are all decided; `kept` are those of the folder that the command does not name."""

    config: RunConfig
    kept: Mapping[str, Any]
    notices: tuple[Notice, ...] = ()


def with_kept_settings(config: RunConfig) -> KeptSettings:
    """The config, with what the folder of its run was made with in place of what it does not name.

    Raises:
        ConfigError: the catalogue that the folder was made with is gone.
        OutputError: no folder can be there.
    """
    folder = RunFolder(config.out)
    asked = {name: value for name, value in config.settings().items() if is_explicit(value)}
    with disk_errors(config.out):  # a path that is too long
        is_new = not folder.manifest.exists()
    try:
        before = _made_with(folder)
    except OutputError as exc:
        if is_new:
            return KeptSettings(config=_fused_by_default(config), kept={})
        message = f"its settings cannot be read, so each setting that the command does not name has its default ({exc})"
        return KeptSettings(
            config=_fused_by_default(config), kept={}, notices=(Notice(about=str(config.out), message=message),)
        )
    kept = {name: before[name] for name in _KEPT if name not in asked and before[name] is not None}
    _require_catalogue(config, kept)
    by_default = _fused_by_default(_merged(config, {"models": kept["models"]} if "models" in kept else {}))
    kept |= _kept_fusion(asked, before, is_fused=_fusion_before(folder) != (True, None))
    decided = _fused_by_default(_merged(config, kept))
    notices = (*_changes(config.out, asked, before), *_stays(config.out, kept, by_default.settings()))
    return KeptSettings(config=decided, kept=kept, notices=notices)


def require_weights_for_all(settings: KeptSettings, models: Sequence[str]) -> None:
    """Refuse weights of the folder that do not fit the models of the command.

    Raises:
        ConfigError: they do not fit.
    """
    unfit = unfit_weights(settings, models)
    if unfit is not None:
        raise ConfigError(unfit)


def unfit_weights(settings: KeptSettings, models: Sequence[str]) -> str | None:
    """Why `embed` would refuse the weights of the folder for these models; None where they fit."""
    weights = settings.kept.get("weights")
    if not weights or set(weights) == set(models):
        return None
    example = ",".join(f"{name}={weights.get(name, 1):g}" for name in models)
    return (
        f"{settings.config.out} has the weights {_numbers(weights)}, and this command has the models "
        f"{', '.join(models)}: give embed a weight for each model, e.g. --weights {example}"
    )


def fusion_change(settings: KeptSettings) -> str | None:
    """A sentence on how the command changes the fusion, as far as settings show it; None where it stays."""
    try:
        before = _made_with(RunFolder(settings.config.out))
    except OutputError:
        return None
    now = settings.config.settings()
    if all(before[name] == now[name] for name in _FUSION):
        return None
    known, plan = _fusion_before(RunFolder(settings.config.out))
    stays = known and (before["fusion"], before["dim"]) == (now["fusion"], now["dim"])
    stays = stays and (plan is None or plan.has_proportions(now["weights"]))
    effect = "only the ranking changes" if stays else "all fused vectors change, and no text is embedded"
    return f"it was {_fusion_said(before)} in {settings.config.out}, and is {_fusion_said(now)} from now on: {effect}"


def tell_fusion(folder: RunFolder, plan: FusionPlan | None, sink: EventSink) -> None:
    """Say how the fused vectors of a folder change, where they do."""
    known, before = _fusion_before(folder)
    if not known or _arithmetic(before) == _arithmetic(plan):
        return
    if before is None:
        message = f"{_described(plan)} from now on: fused vectors are added, and no text is embedded"
    elif plan is None:
        message = f"the fused vectors ({_described(before)}) are removed, because nothing is fused from now on"
    else:
        message = (
            f"it was {_described(before)}, and is {_described(plan)} from now on: all fused vectors are made again, "
            "no text is embedded, and the next export writes every row that has a fused vector"
        )
    sink.emit(Notice(about="fusion", message=message))


def _made_with(folder: RunFolder) -> dict[str, Any]:
    """The settings of the last session by their flat names.

    Raises:
        OutputError: they are not written down, or cannot be read.
    """
    return folder.read_json_as(_written(folder), _settings)


def _written(folder: RunFolder) -> str:
    return STATE if (folder.path / STATE).is_file() else "run.json"


def _settings(written: Any) -> dict[str, Any]:
    try:
        return RunConfig.from_dict(written["config"]).settings()
    except SoloistError as exc:
        raise ValueError(str(exc)) from exc


def _merged(config: RunConfig, kept: Mapping[str, Any]) -> RunConfig:
    return RunConfig.from_mapping({**config.settings(), **kept}, origin=str(config.out))


def _require_catalogue(config: RunConfig, kept: Mapping[str, Any]) -> None:
    path = kept.get("catalogue")
    if path is not None and not path.is_file():
        raise ConfigError(
            f"{config.out} was made with the catalogue {path}, which does not exist now: give --catalogue with its path"
        )


def tell_hybrid(folder: RunFolder, plan: HybridPlan | None, sink: EventSink) -> None:
    """Say so where the members of a folder are weighed differently at question time."""

    def written(summary: Any) -> HybridPlan | None:
        return HybridPlan.from_dict(summary["hybrid"]) if "hybrid" in summary else None

    try:
        before = folder.read_json_as(_written(folder), written)
    except SoloistError:  # of an earlier version, damaged, or not there
        return
    if before is not None and plan is not None and before != plan:
        was, now = _numbers(before.weights), _numbers(plan.weights)
        message = f"they were {was} in {folder.path}, and are {now} from now on: only the ranking changes"
        sink.emit(Notice(about="weights of the ranking", message=message))


def _kept_fusion(asked: Mapping[str, Any], before: Mapping[str, Any], *, is_fused: bool) -> dict[str, Any]:
    """Method, weights and dim that stay. A dim is of its method, and of no other.

    A method that fused nothing was not named: the run has at most one dense member. It stays unnamed.
    """
    method = before["fusion"]
    if method != NO_FUSION and not is_fused:
        return {"weights": before["weights"]} if "weights" not in asked and before["weights"] else {}
    if method == NO_FUSION and before["weights"] and not asked.keys() & {"fusion", "dim"}:
        return {"fusion": method, **({"weights": before["weights"]} if "weights" not in asked else {})}
    if method == NO_FUSION:
        alone = len(set(before["models"])) == 1
        others = len(set(asked.get("models", before["models"]))) > 1
        is_open = asked.keys() & set(_FUSION) or (alone and others)  # one model says nothing of how to fuse two
        return {} if is_open else {"fusion": method}
    now = asked.get("fusion", method)
    if now == NO_FUSION:
        return {}
    kept = {"fusion": method, "weights": before["weights"], **({"dim": before["dim"]} if now == method else {})}
    return {name: value for name, value in kept.items() if name not in asked and value is not None}


def _fused_by_default(config: RunConfig) -> RunConfig:
    """A single model is not fused unless somebody asked for it: its fused vectors would repeat its own."""
    is_asked = any(is_explicit(getattr(config.fusion, name)) for name in ("method", "weights", "dim"))
    if is_asked or len(set(config.models)) > 1:
        return config
    return replace(config, fusion=FusionConfig(method=NO_FUSION))


def _changes(out: Path, asked: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Notice]:
    """What the command names differently."""
    for name, effect in _KEPT.items():
        if effect and name in asked and asked[name] != before[name] and not _changes_nothing(name, asked, before):
            was, now = _said(before[name]), _said(asked[name])
            yield Notice(about=name, message=f"it was {was} in {out}, and is {now} from now on: {effect}")


def _changes_nothing(name: str, asked: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether another value changes nothing: collections are named for the first time, or `matmul` is `auto`."""
    return (name == "collections" and not before[name]) or (name == "matmul" and asked[name] == "auto")


def _stays(out: Path, kept: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Notice]:
    """What the command does not name, where it would have another default."""
    differs = {name: value for name, value in kept.items() if name == "models" or value != defaults[name]}
    for name in _KEPT:
        if name in differs:
            message = f"{_said(kept[name])}, kept from {out}; to change this, give --{name.replace('_', '-')}"
            yield Notice(about=name, message=message)
    said = _fusion_said({name: value for name, value in differs.items() if name in _FUSION})
    if said:
        options = " or ".join(f"--{name}" for name in _FUSION if name in differs)
        yield Notice(about="fusion", message=f"{said}, kept from {out}; to change this, give {options}")


def _said(value: Any) -> str:
    if value is None:
        return "the usual one"
    if value == 0:  # of a bound: there is none
        return "0 (all)"
    return ", ".join(map(str, value)) or "all" if isinstance(value, tuple) else str(value)


def _fusion_said(settings: Mapping[str, Any]) -> str:
    """Method, weights and dim, those of them that there are."""
    method, weights, dim = (settings.get(name) for name in _FUSION)
    said = (method, f"weights {_numbers(weights)}" if weights else None, f"dim {dim}" if dim else None)
    return ", ".join(filter(None, said))


def _numbers(weights: Mapping[str, float]) -> str:
    return ",".join(f"{name}={weight:g}" for name, weight in weights.items())


def _fusion_before(folder: RunFolder) -> tuple[bool, FusionPlan | None]:
    """Whether it is known how the folder is fused, and how."""

    def plan(written: Any) -> FusionPlan | None:
        saved = written["fusion"]
        return FusionPlan.from_dict(saved) if saved is not None else None

    try:
        return True, folder.read_json_as(_written(folder), plan)
    except SoloistError:  # of an earlier version, damaged, or not there
        return False, None


def _arithmetic(plan: FusionPlan | None) -> object:
    return None if plan is None else (plan.method, plan.models, plan.weights, plan.kept_dims, plan.dim)


def _described(plan: FusionPlan | None) -> str:
    if plan is None:
        return "none"
    parts = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(plan.models, plan.weights, strict=True))
    return f"{plan.method} of {parts}, {plan.dim} dimensions"
