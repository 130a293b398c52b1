"""Finds models in folders below a root, names them, and writes a user's catalogue of them.

Knows files and the built-in catalogue. Loads no weights and asks no network.

Paths name models in many ways. Kaggle mounts what is attached to a notebook in these (2026-11):

    /kaggle/input/SLUG/...                                              a data set, the older way
    /kaggle/input/datasets/OWNER/SLUG/...                               a data set
    /kaggle/input/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION/...    a model
    /kaggle/input/notebooks/OWNER/SLUG/...                              the output of another notebook

A copy of the hub's cache has `models--OWNER--MODEL/snapshots/COMMIT`. If the last parts of the path are a name of the
catalogue, the model has that name. Signs between letters and digits do not count:
`qwen-3-embedding/transformers/0.6b/1` is `qwen3-embedding-0.6b`. The owner on the hub may stand before the name:
`baai-bge-m3` is `bge-m3`. Otherwise the model has the name of its folder: `my-bge-m3` may have other weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soloist.errors import ModelLoadError
from soloist.models.catalogue import BUILT_IN
from soloist.models.refusals import require_encoder
from soloist.models.spec import ModelSpec

# The deepest known layout is a hub cache inside a model's version inside a data set: 10 folders.
_DEPTH = 10
# Names of folders that do not name a model: Kaggle's frameworks and usual variations, and layers of copies.
_SAYING_NOTHING = frozenset(
    {
        "transformers", "pytorch", "tensorflow1", "tensorflow2", "tflite", "tfjs", "jax", "flax", "keras",
        "scikitlearn", "other", "onnx", "default", "snapshots", "model", "models", "weights", "files", "main",
    }
)  # fmt: skip
_VERSION = re.compile(r"v?\d+|[0-9a-f]{40}")
_WEIGHTS = re.compile(r"model.*\.safetensors|pytorch_model.*\.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedModel:
    """A folder with a model. `complaint` is a sentence that says why it cannot be used; None where it can."""

    name: str
    folder: Path
    complaint: str | None = None


def find_models(root: str | Path) -> tuple[AttachedModel, ...]:
    """The models below a folder: those of the catalogue in its order, then the others by name.

    A model is a folder with `modules.json`, or with `config.json` and weights. A root that does not exist has none. If
    two folders have one name, the first that can be used counts, and the other gets a complaint.

        find_models("/kaggle/input")
    """
    root = Path(root)
    found = [_examined(_name_of(folder, root), folder) for folder in _model_folders(root)]
    order = {name: place for place, name in enumerate(BUILT_IN.names())}
    found.sort(key=lambda model: (order.get(model.name, len(order)), model.name, model.complaint is not None))
    return tuple(_once_each(found))


def write_catalogue(models: Iterable[AttachedModel], path: str | Path) -> Path:
    """Write the models that can be used to a TOML file, which `--catalogue` and `SOLOIST_CATALOGUE` name; its path.

    A file that is there is replaced, and its folder is made where it is missing.
    """
    tables = [
        f"[models.{_toml(model.name)}]\nsource = {_toml(str(model.folder.absolute()))}\n"
        for model in models
        if model.complaint is None
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


def _model_folders(root: Path) -> Iterator[Path]:
    """Folders that hold a model, sorted by path. Folders inside of a model are its modules."""
    seen: set[str] = set()
    for path, folders, files in os.walk(root, followlinks=True):
        real, folder = os.path.realpath(path), Path(path)
        is_new = real not in seen
        seen.add(real)
        if is_new and _is_model(files):
            yield folder
        if not is_new or _is_model(files) or len(folder.relative_to(root).parts) == _DEPTH:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _is_model(files: Sequence[str]) -> bool:
    return "modules.json" in files or ("config.json" in files and any(map(_WEIGHTS.fullmatch, files)))


def _name_of(folder: Path, root: Path) -> str:
    """The name that the path gives to a model. Folders above the root count only for a model in the root itself."""
    parts = folder.relative_to(root).parts or (folder.absolute().name,)
    telling = [part for part in parts if part.lower() not in _SAYING_NOTHING and not _VERSION.fullmatch(part)]
    words = [_plain(word) for part in telling for word in part.split("--")]
    names = {key: spec.name for spec in BUILT_IN.specs for key in _keys(spec)}
    known = [names[end] for start in range(len(words)) if (end := "".join(words[start:])) in names]
    return known[0] if known else (telling or parts)[-1].rsplit("--", 1)[-1]


def _keys(spec: ModelSpec) -> tuple[str, ...]:
    """The last parts of paths that name this model, without signs: its name, and its source with and without owner."""
    return _plain(spec.name), _plain(spec.source.rsplit("/", 1)[-1]), _plain(spec.source)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def _examined(name: str, folder: Path) -> AttachedModel:
    try:
        require_encoder(ModelSpec(name=name, source=str(folder)), folder)
    except ModelLoadError as exc:
        return AttachedModel(name=name, folder=folder, complaint=str(exc))
    return AttachedModel(name=name, folder=folder)


def _once_each(models: Iterable[AttachedModel]) -> Iterator[AttachedModel]:
    """The models. If two have one name, the second gets a complaint."""
    used: dict[str, Path] = {}
    for model in models:
        first = used.setdefault(model.name, model.folder)
        if first != model.folder and model.complaint is None:
            twice = f"{model.name} exists twice, and {first} is used: remove {first} to use {model.folder}"
            model = replace(model, complaint=twice)
        yield model


def _toml(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's too, but for pairs of surrogates, which are not written so."""
    return json.dumps(text, ensure_ascii=False)
