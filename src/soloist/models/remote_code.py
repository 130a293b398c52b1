"""Remote code: what `trust_remote_code` lets a model run from another hub repository.

A configuration may name its classes as `org/repository--module.Class`. transformers then runs that module of the
repository's `main`, as the hub's cache has it. The module may import modules beside it, and no others are there when it
runs. So the bytes of these files stand for the code, and a commit that changes none of them changes nothing.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from soloist.errors import ModelLoadError
from soloist.models.location import module_folders

_SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def fetch_remote_code(folder: Path) -> None:
    """Have all remote code of a model in the hub's cache, at its present commit where the hub can be asked.

    Raises:
        ModelLoadError: a file is not in the cache, and cannot be downloaded.
    """
    for _ in _modules(folder, _fetched):
        pass


def remote_code(folder: Path) -> dict[str, Path]:
    """Every file of remote code in the hub's cache, by `org/repository--module.py`; asks no network.

    Raises:
        ModelLoadError: the cache lacks a file, so what the model computes is unknown.
    """
    return dict(_modules(folder, _cached))


def _modules(folder: Path, find: Callable[[str, str], Path | None]) -> Iterator[tuple[str, Path]]:
    """Every module that is named, and those that it imports, each once, by `org/repository--module.py`."""
    named = _references(folder)
    pending, seen = [(*reference, is_needed) for reference, is_needed in sorted(named.items())], set(named)
    while pending:
        repository, file, is_needed = pending.pop(0)
        try:
            path = find(repository, file)
        except HFValidationError as exc:
            if not is_needed:
                continue
            raise ModelLoadError(
                f"{folder} names code of {repository!a}, which is not a repository of the hub: correct that name in "
                "its configuration"
            ) from exc
        if path is None and is_needed:
            raise ModelLoadError(
                f"{folder} needs code of {repository}, whose {file} is not in the hub's cache: download that "
                f"repository, or copy its code into the folder and remove {repository}-- from the names in its "
                "configuration"
            )
        if path is None:
            continue
        yield f"{repository}--{file}", path
        for imported, is_module in _imported(path).items():
            if (repository, imported) not in seen:
                seen.add((repository, imported))
                pending.append((repository, imported, is_needed and is_module))


def _fetched(repository: str, file: str) -> Path | None:
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except OSError:
        return None


def _cached(repository: str, file: str) -> Path | None:
    path = huggingface_hub.try_to_load_from_cache(repository, file)
    return Path(path) if isinstance(path, str) else None


def _imported(module: Path) -> dict[str, bool]:
    """The files beside a module that it imports anywhere in its text, and whether they must be there.

    transformers does not look for what is imported by `from . import name`. A text that is not Python imports nothing.
    """
    try:
        nodes = ast.walk(ast.parse(module.read_bytes()))
    except (SyntaxError, ValueError):
        return {}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1]
    perhaps = {alias.name: False for node in imports if not node.module for alias in node.names}
    names = perhaps | {node.module: True for node in imports if node.module}
    return {f"{name.replace('.', '/')}.py": names[name] for name in sorted(names)}


def _references(folder: Path) -> dict[tuple[str, str], bool]:
    """The named files by repository, and whether the model itself needs them and not one of its parts."""
    references: dict[tuple[str, str], bool] = {}
    for name, is_needed in _class_names(folder):
        repository, separator, inside = name.partition("--")
        if not separator:
            continue
        reference = (repository, f"{inside.partition('.')[0]}.py")
        references[reference] = is_needed or references.get(reference, False)
    return references


def _class_names(folder: Path) -> Iterator[tuple[str, bool]]:
    for module in _json(folder / "modules.json", []):
        yield str(module.get("type", "")), True
    for path in (module_folder / name for module_folder in module_folders(folder) for name in _SETTINGS):
        for classes, is_needed in _auto_maps(_json(path, {})):
            for name in classes.values() if isinstance(classes, dict) else [classes]:  # a tokenizer's: slow and fast
                yield from ((str(one), is_needed) for one in (name if isinstance(name, list) else [name]) if one)


def _auto_maps(settings: Any) -> Iterator[tuple[Any, bool]]:
    """The maps of classes in a configuration, and whether a map is the configuration's own.

    The others belong to parts such as `text_config`, which a model of texts may not use.
    """
    pending = [(settings, True)]
    while pending:
        value, is_own = pending.pop()
        if isinstance(value, dict):
            yield value.get("auto_map", {}), is_own
            pending += [(part, False) for name, part in value.items() if name != "auto_map"]
        elif isinstance(value, list):
            pending += [(part, False) for part in value]


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
