"""A user's own catalogue: a TOML file that adds models to the built-in table, or overrides its rows.

    [models."bge-m3"]
    source = "weights/bge-m3"        # a folder, relative to this file, or a hub id

Pure: it reads that file, and looks only whether sources exist. Knows nothing of torch.

A field that is not given keeps the built-in value, with one exception: another `source` may mean other weights. Then
`package`, `revision`, `loader` and the kind, which describe the old source, are dropped. `dim`, `max_tokens` and
`matryoshka_dims` are read from the model instead of being checked against it. Prompts, licence and dtype rules stay,
since the usual reason for another source is a local copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from soloist.config import read_toml
from soloist.errors import ConfigError
from soloist.models.catalogue import BUILT_IN, Catalogue, at_home, is_hub_id
from soloist.models.spec import ModelSpec
from soloist.types import DTypeRequest

_FIELDS: dict[str, tuple[type, str]] = {
    "source": (str, "a folder or a hub id, as a string"),
    "revision": (str, "a string"),
    "document_prompt": (str, "a string"),
    "query_prompt": (str, "a string"),
    "max_tokens": (int, "a whole number of 1 or more"),
    "dim": (int, "a whole number of 1 or more"),
    "matryoshka_dims": (list, "a list of whole numbers of 1 or more"),
    "dtype": (str, f"one of {', '.join(get_args(DTypeRequest))}"),
    "overflows_float16": (bool, "true or false"),
    "trust_remote_code": (bool, "true or false"),
    "licence": (str, "a string"),
}
_OF_THE_OLD_SOURCE: dict[str, Any] = {
    "package": None,
    "revision": None,
    "kind": "dense",
    "loader": "sentence-transformers",
    "dim": None,
    "max_tokens": None,
    "matryoshka_dims": (),
}


def load_catalogue(path: Path | None) -> Catalogue:
    """The built-in catalogue with the models of a TOML file, which add to it or override it. None adds nothing.

    Raises:
        ConfigError: the file is missing or not TOML, or a model in it has an unknown field or a wrong value.
    """
    if path is None:
        return BUILT_IN
    models = _models_table(path)
    return Catalogue.of((*BUILT_IN.specs, *(_spec(name, models[name], path) for name in models)))


def _models_table(path: Path) -> Mapping[str, Any]:
    content = read_toml(path, "catalogue")
    unknown = sorted(set(content) - {"models"})
    if unknown:
        raise ConfigError(f'the catalogue {path} has the unknown table {unknown[0]!r}: use [models."name"]')
    models = content.get("models", {})
    if not isinstance(models, dict):
        raise ConfigError(f'the catalogue {path} sets models to {models!r}: use tables such as [models."name"]')
    return models


def _spec(name: str, fields: Any, path: Path) -> ModelSpec:
    where = f"the catalogue {path}, model {name!r}"
    if not isinstance(fields, dict):
        raise ConfigError(f'{where}: {fields!r} is not a table: write [models."{name}"] and the fields below it')
    _require_valid(fields, where)
    changes = dict(fields)
    if "source" in fields:
        changes["source"] = _source(fields["source"], path.parent)
    if "matryoshka_dims" in fields:
        changes["matryoshka_dims"] = tuple(sorted(set(fields["matryoshka_dims"])))
    if "licence" in fields:
        changes["non_commercial"] = "-nc" in fields["licence"].lower()
    return _require_fitting_dims(_merge(name, changes, where), where)


def _merge(name: str, changes: dict[str, Any], where: str) -> ModelSpec:
    if name not in BUILT_IN:
        if "source" not in changes:
            raise ConfigError(f"{where}: soloist has no built-in model of that name: add source, a folder or a hub id")
        return ModelSpec(name=name, **changes)
    known = BUILT_IN.get(name)
    if known.kind == "lexical" and "source" not in changes:
        raise ConfigError(
            f"{where}: {name} is the words of the texts and has no settings: leave it out of the catalogue"
        )
    if changes.get("source", known.source) != known.source:
        changes = {**_OF_THE_OLD_SOURCE, **changes}
    return replace(known, **changes)


def _require_valid(fields: Mapping[str, Any], where: str) -> None:
    for key, value in fields.items():
        if key not in _FIELDS:
            raise ConfigError(f"{where}: the field {key!r} is unknown: use {', '.join(_FIELDS)}")
        expected, description = _FIELDS[key]
        if type(value) is not expected or not _has_valid_content(key, value):
            raise ConfigError(f"{where}: {key} is {value!r}: give {description}")


def _has_valid_content(key: str, value: Any) -> bool:
    if key == "dtype":
        return value in get_args(DTypeRequest)
    if key == "matryoshka_dims":
        return all(type(item) is int and item >= 1 for item in value)
    if key in ("max_tokens", "dim"):
        return bool(value >= 1)
    return bool(value) or key not in ("source", "revision")


def _require_fitting_dims(spec: ModelSpec, where: str) -> ModelSpec:
    if spec.dim is not None and spec.matryoshka_dims and max(spec.matryoshka_dims) > spec.dim:
        raise ConfigError(
            f"{where}: matryoshka_dims go up to {max(spec.matryoshka_dims)}, beyond dim {spec.dim}: correct one of them"
        )
    return spec


def _source(text: str, base: Path) -> str:
    """A folder as an absolute path, or a hub id unchanged. An existing folder goes before a hub id.

    Only `catalogue.resolve` asks whether the folder exists: models that are not used may lack theirs.
    """
    folder = base / at_home(text)
    return text if is_hub_id(text) and not folder.is_dir() else str(folder.absolute())
