"""The modules of a model's folder, as `modules.json` and the files of its routers name them. Pure; no torch.

A router has routes, and a route is a list of modules. A task, `document` or `query`, takes one route. Properties of a
model follow from the modules of a task (`modules_for`), and its files belong to all modules (`modules_of`).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Task = Literal["document", "query"]

_ROUTERS = ("Router", "Asym")
_BARE_TABLE = {"StaticEmbedding", "Normalize"}
_ROUTER_FILES = ("router_config.json", "config.json")  # earlier versions wrote the second


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleEntry:
    """A module: the name of its class, and the folder of its files."""

    type: str
    folder: Path

    @property
    def kind(self) -> str:
        """The name of the class, without its packages."""
        return self.type.rpartition(".")[2]

    @property
    def is_router(self) -> bool:
        """Whether the module has routes of other modules."""
        return self.kind in _ROUTERS and self.is_of_the_library

    @property
    def is_of_the_library(self) -> bool:
        """Whether the class is of sentence-transformers, and not the model's own code."""
        return self.type.startswith("sentence_transformers.")


class RouteError(ValueError):
    """A router has no route for a task. The message names the routes that it has."""


def modules_of(folder: Path) -> tuple[ModuleEntry, ...]:
    """Every module of a folder. The modules of all routes follow their router.

    Raises:
        OSError: a file is missing.
        ValueError: a file is neither a list of modules with a type and a path nor a description of routes.
    """
    return tuple(module for entry in _listed(folder) for module in _with_routes(entry))


def modules_for(folder: Path, task: Task) -> tuple[ModuleEntry, ...]:
    """The modules that a text of this task goes through, in order, without routers.

    Raises:
        OSError: a file is missing.
        ValueError: a file does not say what it should (`RouteError`: a router has no route for the task).
    """
    return tuple(module for entry in _listed(folder) for module in _routed(entry, task))


def names_bare_table(folder: Path) -> bool:
    """Whether the modules of a folder are a table of token vectors and nothing that multiplies.

    Raises:
        OSError: a file is missing.
        ValueError: a file has other content than it should have.
    """
    modules = modules_of(folder)
    return bool(modules) and all(module.is_of_the_library and module.kind in _BARE_TABLE for module in modules)


def input_folder(folder: Path, task: Task = "document") -> Path:
    """The folder of the module that reads texts of this task, which has its tokenizer.

    It is the model's own folder where the model's files do not name a module.
    """
    try:
        return modules_for(folder, task)[0].folder
    except (OSError, ValueError, LookupError):
        return folder


def route_of(mappings: Mapping[Any, str], routes: Collection[str], task: Task) -> str:
    """The route that texts of a task take, as the Router of sentence-transformers finds it.

    Raises:
        RouteError: there is none.
    """
    for key in ((task, "text"), (task, None), (None, "text"), (None, None)):
        if key in mappings:
            return mappings[key]
    for name in (task, "text"):
        if name in routes:
            return name
    raise RouteError(f"its router has the routes {', '.join(routes)}, and no route for a {task}")


def router_file(folder: Path) -> Path:
    """The file that describes a router's routes."""
    return next((folder / name for name in _ROUTER_FILES if (folder / name).is_file()), folder / _ROUTER_FILES[0])


def _listed(folder: Path) -> list[ModuleEntry]:
    path = folder / "modules.json"
    listed = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(listed, list) or not all(isinstance(e, dict) and {"type", "path"} <= set(e) for e in listed):
        raise ValueError(f"{path} is not a list of modules with a type and a path: save the model's pipeline again")
    return [ModuleEntry(type=str(entry["type"]), folder=folder / entry["path"]) for entry in listed]


def _with_routes(entry: ModuleEntry) -> Iterator[ModuleEntry]:
    yield entry
    if entry.is_router:
        for inside in _entries(entry, _router(entry)).values():
            yield from _with_routes(inside)


def _routed(entry: ModuleEntry, task: Task) -> Iterator[ModuleEntry]:
    if not entry.is_router:
        yield entry
        return
    config = _router(entry)
    entries, structure = _entries(entry, config), config["structure"]
    mappings = (config.get("parameters") or {}).get("route_mappings") or {}
    for name in structure[route_of({_key(text): route for text, route in mappings.items()}, structure, task)]:
        yield from _routed(entries[name], task)


def _router(entry: ModuleEntry) -> Mapping[str, Any]:
    path = router_file(entry.folder)
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not all(isinstance(config.get(n), dict) for n in ("types", "structure")):
        raise ValueError(
            f"{path} does not list the routes of its router: save the model again with sentence-transformers"
        )
    return config


def _entries(entry: ModuleEntry, config: Mapping[str, Any]) -> dict[str, ModuleEntry]:
    return {name: ModuleEntry(type=str(kind), folder=entry.folder / name) for name, kind in config["types"].items()}


def _key(text: str) -> Any:
    """A pair of task and modality, which is written as Python in a key of JSON."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
