"""What a run will ask of a model, read from its configuration files: no weight is opened, and no torch imported.

The same answers that loading gives (`StagedModel`), for planning; where the files are not here, what the catalogue
says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.errors import ConfigError, ModelLoadError
from soloist.models.blueprint import Blueprint
from soloist.models.location import find_settings
from soloist.models.spec import ModelSpec

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
# Families whose positions begin after the padding index, so that those up to it are never used.
_WITH_UNUSED_POSITIONS = ("xlm-roberta", "roberta", "camembert", "mpnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The limit, the prompt and the dimension of a model. `max_tokens` is None where it reads everything.

    `folder` has the model's files, None where they are not on this machine.
    """

    max_tokens: int | None
    document_prompt: str
    dim: int | None
    folder: Path | None
    is_static: bool = False


def read_settings(spec: ModelSpec, blueprint: Blueprint) -> ModelSettings:
    """The settings of a model, from its files where they are on this machine, else from the catalogue.

    Raises:
        ModelLoadError: the spec's dimension is not that of the model.
        ConfigError: the spec asks for more tokens or dimensions than the model has.
    """
    folder = find_settings(spec)
    dim = _dim(blueprint)
    if dim is not None:
        require_dims(spec, dim)
    return ModelSettings(
        max_tokens=_max_tokens(spec, blueprint, folder),
        document_prompt=_document_prompt(spec, folder),
        dim=spec.dim or dim,
        folder=folder,
        is_static=blueprint.is_static,
    )


def require_dims(spec: ModelSpec, dim: int) -> None:
    """Refuse a spec that asks for other dimensions than the model has.

    Raises:
        ModelLoadError: it names another dimension.
        ConfigError: one of its Matryoshka dimensions is larger.
    """
    if spec.dim not in (None, dim):
        raise ModelLoadError(
            f"{spec.name} should give {spec.dim} dimensions but {spec.source} gives {dim}: these are other weights, "
            "correct its source or its dim"
        )
    if spec.matryoshka_dims and max(spec.matryoshka_dims) > dim:
        raise ConfigError(
            f"{spec.name} gives {dim} dimensions, fewer than the {max(spec.matryoshka_dims)} of its matryoshka_dims: "
            "correct the catalogue"
        )


def require_positions(spec: ModelSpec, positions: int | None) -> None:
    """Refuse a limit beyond the positions that a model has; None where it does not say.

    Raises:
        ConfigError: the spec's limit is larger.
    """
    if spec.max_tokens is not None and positions is not None and spec.max_tokens > positions:
        raise ConfigError(
            f"{spec.name} has {positions} positions, fewer than its max_tokens of {spec.max_tokens}: lower max_tokens"
        )


def static_token_limit(spec: ModelSpec, own: int | None) -> int | None:
    """The limit of a static model, whose tokenizer has one of its own or none.

    Raises:
        ConfigError: the spec has a limit and the tokenizer has none.
    """
    if own is None and spec.max_tokens is not None:
        raise ConfigError(f"{spec.name} reads texts of any length: leave out its max_tokens")
    return min(own, spec.max_tokens or own) if own is not None else None


def _max_tokens(spec: ModelSpec, blueprint: Blueprint, folder: Path | None) -> int | None:
    if blueprint.is_static:
        return static_token_limit(spec, _static_limit(folder)) if folder is not None else spec.max_tokens
    positions = _positions(blueprint.config)
    require_positions(spec, positions)
    limits = [spec.max_tokens, positions]
    if folder is not None:
        limits.append(_pipeline_limit(folder))
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _positions(config: Mapping[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    kind = str(config.get("model_type", ""))
    padding = config.get("pad_token_id")
    unused = (padding if isinstance(padding, int) else 1) + 1 if kind in _WITH_UNUSED_POSITIONS else 0
    return positions - unused


def _pipeline_limit(folder: Path) -> int | None:
    """The limit of the pipeline's own files, else of its tokenizer."""
    for name in ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json"):
        limit = _json(folder / name).get("max_seq_length")
        if isinstance(limit, int):
            return limit
    limit = _json(folder / "tokenizer_config.json").get("model_max_length")
    return int(limit) if isinstance(limit, (int, float)) and limit < 1e9 else None


def _static_limit(folder: Path) -> int | None:
    places = [folder / "tokenizer.json", *sorted(folder.glob("*/tokenizer.json"))]
    for place in places:
        truncation = _json(place).get("truncation")
        if isinstance(truncation, dict) and isinstance(truncation.get("max_length"), int):
            return int(truncation["max_length"])
    return None


def _document_prompt(spec: ModelSpec, folder: Path | None) -> str:
    if spec.document_prompt is not None:
        return spec.document_prompt
    config = _json(folder / "config_sentence_transformers.json") if folder is not None else {}
    # sentence-transformers gives every model these two prompts, empty where its own files have none.
    prompts = {"query": "", "document": "", **(config.get("prompts") or {})}
    default = config.get("default_prompt_name")
    name = next((name for name in _DOCUMENT_PROMPTS if name in prompts), default)
    return str(prompts.get(name, "")) if name is not None else ""


def _dim(blueprint: Blueprint) -> int | None:
    if blueprint.static_shape is not None:
        return blueprint.static_shape[1]
    if blueprint.dense:
        return blueprint.dense[-1].out_features
    hidden = blueprint.config.get("hidden_size")
    return hidden * len(blueprint.pooling) if isinstance(hidden, int) else None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
