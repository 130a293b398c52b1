"""The settings of a model before it is loaded, from its configuration files. Opens no weights, and imports no torch.

Planning gets the same answers here that loading gives (`StagedModel`). Where the files are not on this machine, they
come from the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.errors import ConfigError, ModelLoadError
from soloist.models.blueprint import Blueprint, hidden_size
from soloist.models.limits import (
    OwnLimits,
    limit_notices,
    padding_notices,
    stated_positions,
    token_limit,
    usable_positions,
)
from soloist.models.location import find_settings
from soloist.models.own_settings import (
    TransformerFiles,
    read_object,
    read_pipeline,
    read_transformer,
    require_followed,
    require_pipeline,
    similarity_of,
)
from soloist.models.pipeline import input_folder, modules_for, modules_of
from soloist.models.prompts import choose_prompts
from soloist.models.sparse_folders import most_active
from soloist.models.spec import ModelSpec
from soloist.types import MemberKind, Similarity


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The limit, the prompt and the dimension of a model. `max_tokens` is None where there is no limit.

    `folder` has the model's files, and is None where they are not on this machine. `table_rows` is the number of tokens
    for which the model has a vector, where its files say so. `lowers` is True where texts are put into lower case
    before they are tokenized. The other fields are those of `StagedModel`.
    """

    max_tokens: int | None
    document_prompt: str
    dim: int | None
    folder: Path | None
    kind: MemberKind = "dense"
    most_active: int | None = None
    is_static: bool = False
    table_rows: int | None = None
    lowers: bool = False
    similarity: Similarity = "cosine"
    has_unit_vectors: bool = True
    notices: tuple[str, ...] = ()


def read_settings(spec: ModelSpec, blueprint: Blueprint) -> ModelSettings:
    """The settings of a model, from its files where they are on this machine, else from the catalogue.

    Raises:
        ModelLoadError: the spec's dimension is not the model's, or soloist cannot follow a setting of its files.
        ConfigError: the spec asks for more tokens or dimensions than the model has.
    """
    folder = find_settings(spec)
    own = read_pipeline(folder) if folder is not None else {}
    files = _transformer_files(blueprint, folder)
    if folder is not None:
        require_own_settings(spec, folder)
    limits = files.limits(spec.name) if files is not None else OwnLimits(longest=stated_positions(blueprint.config))
    network = {**blueprint.config, **(files.network if files is not None else {})}
    side = str(files.tokenizer.get("padding_side")) if files is not None else "right"
    prompts = choose_prompts(spec, own)
    dim = _dim(blueprint, own, spec)
    kind: MemberKind = "sparse" if blueprint.splade is not None or spec.head == "sparse" else "dense"
    if dim is not None:
        require_dims(spec, dim)
    return ModelSettings(
        max_tokens=_max_tokens(spec, blueprint, folder, limits, network),
        document_prompt=prompts.document,
        dim=spec.dim or dim,
        folder=folder,
        kind=kind,
        most_active=most_active(own, spec.sparse_top) if kind == "sparse" else None,
        is_static=blueprint.is_static,
        table_rows=_table_rows(blueprint),
        lowers=files is not None and bool(files.settings.get("do_lower_case")),
        similarity=similarity_of(own, kind) if spec.head == "dense" else "dot",
        has_unit_vectors=kind == "dense" and _ends_in_normalize(blueprint, folder) and not own.get("truncate_dim"),
        notices=(*prompts.notices, *limit_notices(spec, limits, network), *padding_notices(side, network)),
    )


def require_own_settings(spec: ModelSpec, folder: Path) -> None:
    """Refuse a folder with settings that soloist cannot follow, for documents or for queries.

    Raises:
        ModelLoadError: there is such a setting. The message names it, its file and what to do.
    """
    if spec.loader == "wordllama":
        return
    pipeline = read_pipeline(folder)
    require_pipeline(spec, pipeline)
    choose_prompts(spec, pipeline)
    own_code = {module.folder for module in modules_of(folder) if not module.is_of_the_library}
    for module_folder in dict.fromkeys((input_folder(folder, "document"), input_folder(folder, "query"))):
        require_followed(spec, read_transformer(module_folder), is_own_code=module_folder in own_code)


def require_dims(spec: ModelSpec, dim: int) -> None:
    """Refuse a spec that asks for other dimensions than the model has.

    Raises:
        ModelLoadError: the spec has another dimension.
        ConfigError: a Matryoshka dimension of the spec is larger.
    """
    if spec.dim not in (None, dim):
        raise ModelLoadError(
            f"{spec.name} should give {spec.dim} dimensions, but {spec.source} gives {dim}: correct its source or its "
            "dim"
        )
    if spec.matryoshka_dims and max(spec.matryoshka_dims) > dim:
        raise ConfigError(
            f"{spec.name} gives {dim} dimensions, but its matryoshka_dims go up to {max(spec.matryoshka_dims)}: "
            "correct the catalogue"
        )


def static_token_limit(spec: ModelSpec, own: int | None) -> int | None:
    """The limit of a static model. `own` is that of its tokenizer, if it has one.

    Raises:
        ConfigError: the spec has a limit and the tokenizer has none.
    """
    if own is None and spec.max_tokens is not None:
        raise ConfigError(f"{spec.name} has no limit of tokens, so max_tokens has no meaning for it: leave it out")
    return min(own, spec.max_tokens or own) if own is not None else None


def _table_rows(blueprint: Blueprint) -> int | None:
    """The number of tokens for which the model has a vector; None where its files do not say."""
    if blueprint.static_shape is not None:
        return blueprint.static_shape[0]
    size = blueprint.config.get("vocab_size")
    return size if isinstance(size, int) and blueprint.config.get("model_type") != "canine" else None


def _ends_in_normalize(blueprint: Blueprint, folder: Path | None) -> bool:
    """Whether the last module gives vectors length 1."""
    try:
        return blueprint.normalize and (folder is None or modules_for(folder, "document")[-1].kind == "Normalize")
    except (OSError, ValueError, LookupError):  # a model without modules.json, such as wordllama's table
        return False


def _transformer_files(blueprint: Blueprint, folder: Path | None) -> TransformerFiles | None:
    if folder is None or blueprint.is_static:
        return None
    return read_transformer(input_folder(folder))


def _max_tokens(
    spec: ModelSpec, blueprint: Blueprint, folder: Path | None, own: OwnLimits, network: Mapping[str, Any]
) -> int | None:
    if blueprint.is_static:
        return static_token_limit(spec, _static_limit(folder)) if folder is not None else spec.max_tokens
    return token_limit(spec, "document", own, usable_positions(network))


def _static_limit(folder: Path) -> int | None:
    for path in (folder / "tokenizer.json", *sorted(folder.glob("*/tokenizer.json"))):
        truncation = read_object(path).get("truncation")
        if isinstance(truncation, dict) and isinstance(truncation.get("max_length"), int):
            return int(truncation["max_length"])
    return None


def _dim(blueprint: Blueprint, own: Mapping[str, Any], spec: ModelSpec) -> int | None:
    if blueprint.splade is not None or spec.head == "sparse":  # a dimension for each word; a cut is for dense vectors
        words = blueprint.config.get("vocab_size")
        return words if isinstance(words, int) else None
    whole = _whole_dim(blueprint)
    cut = own.get("truncate_dim")
    return min(whole, cut) if whole is not None and isinstance(cut, int) else whole


def _whole_dim(blueprint: Blueprint) -> int | None:
    if blueprint.static_shape is not None:
        return blueprint.static_shape[1]
    if blueprint.dense:
        return blueprint.dense[-1].out_features
    hidden = hidden_size(blueprint.config)
    return hidden * len(blueprint.pooling) if hidden is not None else None
