"""Code that a model takes from another hub repository, and the commit that this code is of.

A configuration may name its classes as `org/repository--module.Class`. transformers then runs that repository's `main`
as the hub's cache has it, so the commit stands for all of that code, whatever files of it are here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub

from soloist.errors import ModelLoadError
from soloist.models.location import module_folders

_SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def fetch_borrowed_code(folder: Path) -> None:
    """Have all such code of a model in the hub's cache, at the commit that it has now where the hub can be asked.

    Raises:
        ModelLoadError: it is not there, and cannot be downloaded.
    """
    for repository, file in _references(folder):
        try:
            huggingface_hub.hf_hub_download(repository, file)
        except OSError as exc:
            raise _missing(folder, repository, file) from exc


def borrowed_commits(folder: Path) -> dict[str, str]:
    """The commit of each such file in the hub's cache, by `org/repository--module.py`; asks no network.

    Raises:
        ModelLoadError: the cache does not have one of them: what the model computes is not known.
    """
    return {f"{repository}--{file}": _commit(folder, repository, file) for repository, file in _references(folder)}


def _commit(folder: Path, repository: str, file: str) -> str:
    path = huggingface_hub.try_to_load_from_cache(repository, file)
    if not isinstance(path, str):
        raise _missing(folder, repository, file)
    return Path(path).parent.name  # .../snapshots/COMMIT/module.py


def _missing(folder: Path, repository: str, file: str) -> ModelLoadError:
    return ModelLoadError(
        f"{folder} takes its code from {repository}, whose {file} is not in the hub's cache: download that repository, "
        f"or copy its code into the folder and take {repository}-- out of the names in its configuration"
    )


def _references(folder: Path) -> list[tuple[str, str]]:
    """Repositories with the files that are named, each once, sorted."""
    found = set()
    for name in _class_names(folder):
        repository, separator, inside = name.partition("--")
        if separator:
            found.add((repository, f"{inside.partition('.')[0]}.py"))
    return sorted(found)


def _class_names(folder: Path) -> Iterator[str]:
    for module in _json(folder / "modules.json", []):
        yield str(module.get("type", ""))
    for path in (place / name for place in module_folders(folder) for name in _SETTINGS):
        classes = _json(path, {}).get("auto_map", {})
        for name in classes.values() if isinstance(classes, dict) else [classes]:  # a tokenizer's are slow and fast
            yield from (str(each) for each in (name if isinstance(name, list) else [name]) if each)


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
