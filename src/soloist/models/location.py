"""Where a model's files are: a folder, the hub's cache, an installed package, or the hub itself.

Knows files and the hub. Imports neither torch nor the packages that carry weights, and opens no weights. The result is
always a folder on this machine, so that loading itself never needs a network.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from soloist.errors import ModelLoadError
from soloist.models.adapters import adapter_in
from soloist.models.catalogue import is_hub_id
from soloist.models.pipeline import RouteError, modules_for, modules_of
from soloist.models.sparse_folders import TOKEN_WEIGHTS_FILE
from soloist.models.spec import ModelSpec

WORDLLAMA_WEIGHTS = "weights/l2_supercat_256.safetensors"
WORDLLAMA_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"

_COMMIT = re.compile(r"[0-9a-f]{40}")
# The files of a hub repository that loading can need. Other formats of the same weights are often far larger.
WANTED = ("*.json", "*.txt", "*.model", "*.py", "*.jinja", "*.safetensors")
_UNWANTED = ("onnx/*", "openvino/*", "coreml/*", "*/onnx/*", "*/openvino/*")
_PICKLED = ("pytorch_model*.bin", "*/pytorch_model*.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A folder with all files of a model, and their commit on the hub, where it is known."""

    folder: Path
    revision: str | None


def locate(spec: ModelSpec, marker: str = "modules.json") -> Location:
    """Find the files: a folder, else the hub's cache, else the spec's package, else a download from the hub.

    `marker` is a file that every complete model of the wanted kind has.

    Raises:
        ModelLoadError: the source is a folder that does not exist, or a package that is not installed.
        OSError: the hub cannot be reached, does not have the model, or does not give it without a licence.
    """
    if Path(spec.source).is_dir():
        return _at(Path(spec.source))
    if spec.loader == "wordllama":
        return Location(folder=_require_package(spec), revision=None)
    if not is_hub_id(spec.source):
        raise ModelLoadError(
            f"{spec.name} cannot be loaded, because the folder {spec.source} does not exist: attach it, or correct the "
            "source"
        )
    return _cached(spec, marker) or _packaged(spec) or _downloaded(spec, marker)


def find_settings(spec: ModelSpec) -> Path | None:
    """The folder with a model's configuration and tokenizer, where it is on this machine; the weights may be missing.

    Asks no network: a folder, else the hub's cache, else the spec's package.
    """
    if Path(spec.source).is_dir():
        return Path(spec.source)
    if spec.loader == "wordllama":
        return _package_folder(spec.package)
    if is_hub_id(spec.source):
        path = huggingface_hub.try_to_load_from_cache(spec.source, "modules.json", revision=spec.revision)
        if isinstance(path, str):
            return Path(path).parent
    packaged = _packaged(spec)
    return packaged.folder if packaged is not None else None


def weight_files_of(spec: ModelSpec, folder: Path) -> tuple[Path, ...]:
    """`weight_files`, and those of the layers beside the network that a member needs."""
    return (*weight_files(folder), *_heads(spec, folder))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files with the weights of all modules, sorted. Where a module has safetensors, only those count.

    Empty where the model was not copied or downloaded in full.
    """
    files: list[Path] = []
    for module_folder in module_folders(folder):
        files.extend(_checkpoint(module_folder, "model.safetensors") or _checkpoint(module_folder, "pytorch_model.bin"))
    return tuple(sorted(files))


def module_folders(folder: Path) -> tuple[Path, ...]:
    """The model's folder, and then those of its modules and of its routers' modules, each once.

    The modules of documents come before the others. A folder without modules.json has no others.
    """
    if not (folder / "modules.json").is_file():
        return (folder,)
    folders = [module.folder for module in modules_of(folder)]
    return tuple(dict.fromkeys((folder, *_document_folders(folder), *folders)))


def network_config(folder: Path) -> Path | None:
    """The configuration file of the transformers network in a model's folder; None where there is none."""
    if not (folder / "modules.json").is_file():
        return folder / "config.json" if (folder / "config.json").is_file() else None
    routers = {module.folder for module in modules_of(folder) if module.is_router}
    configs = [
        _of_the_network(module_folder) / "config.json"
        for module_folder in module_folders(folder)
        if module_folder not in routers
    ]
    return next((config for config in configs if config.is_file()), None)


def network_type(folder: Path) -> str | None:
    """The `model_type` of the transformers network in a model's folder; None where there is none."""
    config = network_config(folder)
    if config is None:
        return None
    kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    return kind if isinstance(kind, str) else None


def _of_the_network(folder: Path) -> Path:
    """The folder that describes a module's network: that of the base of an adapter, else its own."""
    adapter = adapter_in(folder)
    return (adapter.base_folder if adapter is not None else None) or folder


def _document_folders(folder: Path) -> list[Path]:
    try:
        return [module.folder for module in modules_for(folder, "document")]
    except RouteError:
        return []


def _checkpoint(folder: Path, file_name: str) -> list[Path]:
    index = folder / f"{file_name}.index.json"
    if index.is_file() and not (folder / file_name).is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / shard for shard in shards]
    return [folder / file_name] if (folder / file_name).is_file() else []


def _at(folder: Path) -> Location:
    """The location of a folder. A snapshot of the hub's cache is named by its commit, and a copy keeps that name."""
    return Location(folder=folder, revision=folder.name if _COMMIT.fullmatch(folder.name) else None)


def _cached(spec: ModelSpec, marker: str) -> Location | None:
    path = huggingface_hub.try_to_load_from_cache(spec.source, marker, revision=spec.revision)
    if not isinstance(path, str):
        return None
    folder = Path(path).parent
    if not weight_files(folder):
        return None
    files = weight_files_of(spec, folder)
    return _at(folder) if all(file.is_file() for file in files) else None


def _heads(spec: ModelSpec, folder: Path) -> list[Path]:
    """The files with layers beside the network that a member needs."""
    return [folder / TOKEN_WEIGHTS_FILE] if spec.head != "dense" else []


def _packaged(spec: ModelSpec) -> Location | None:
    """The folder of the package with modules.json; None for a spec with a commit, because a package has none."""
    root = _package_folder(spec.package) if spec.revision is None else None
    if root is None:
        return None
    candidates = [root, *sorted(child for child in root.iterdir() if child.is_dir())]
    return next((_at(folder) for folder in candidates if (folder / "modules.json").is_file()), None)


def _downloaded(spec: ModelSpec, marker: str) -> Location:
    folder = _snapshot(spec, WANTED if spec.head == "dense" else (*WANTED, TOKEN_WEIGHTS_FILE))
    if (folder / marker).is_file() and not weight_files(folder):
        folder = _snapshot(spec, _PICKLED)
    return _at(folder)


def _snapshot(spec: ModelSpec, patterns: tuple[str, ...]) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            spec.source, revision=spec.revision, allow_patterns=list(patterns), ignore_patterns=list(_UNWANTED)
        )
    )


def _require_package(spec: ModelSpec) -> Path:
    folder = _package_folder(spec.package)
    if folder is None:
        raise ModelLoadError(
            f"{spec.name} cannot be loaded, because the package {spec.package} with its weights is not installed: "
            f"install {spec.package}"
        )
    return folder


def _package_folder(package: str | None) -> Path | None:
    """The folder of a package, without importing it: wordllama's import sets up the process's logging."""
    spec = importlib.util.find_spec(package) if package else None
    return Path(spec.origin).parent if spec is not None and spec.origin else None
