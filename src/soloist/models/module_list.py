"""Faults in a folder's modules.json: classes that nobody has, folders outside, code of its own. Pure; no torch.

A fault is the end of a sentence, which names the entry and what to do.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soloist.models.own_settings import read_object
from soloist.models.pipeline import ModuleEntry, modules_for, modules_of
from soloist.models.spec import ModelSpec

# Every class of the library that a folder may name (tests/models/test_every_module.py reads them from the library).
LIBRARY_MODULES = frozenset({
    "Asym", "BaseTokenPooling", "BoW", "CLIPModel", "CNN", "Dense", "Dropout", "HierarchicalTokenPooling", "LSTM",
    "LambdaTokenPooling", "LayerNorm", "LogitScore", "MLMTransformer", "MultiVectorMask", "Normalize", "Pooling",
    "Router", "SparseAutoEncoder", "SparseStaticEmbedding", "SpladePooling", "StaticEmbedding", "Transformer",
    "WeightedLayerPooling", "WordEmbeddings", "WordWeights",
})  # fmt: skip
# What sentence-transformers before 0.3 had instead of its Transformer.
_EARLY_TRANSFORMERS = frozenset({"ALBERT", "BERT", "CamemBERT", "DistilBERT", "RoBERTa", "T5", "XLMRoBERTa", "XLNet"})
# These work on tokens or vectors, and so they cannot come first.
_READS_NO_TEXT = frozenset({
    "Dense", "Dropout", "LayerNorm", "Normalize", "Pooling", "WeightedLayerPooling", "WordWeights",
})  # fmt: skip


def faults_in_list(spec: ModelSpec, folder: Path, *, with_code: bool) -> Iterator[str]:
    """The faults in a folder's list of modules. `with_code` says that its files of code should be there too."""
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for entry in listed if isinstance(listed, list) else ():
        yield from _unreadable(entry)
    names = Counter(entry.get("name") for entry in listed)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        yield (
            f"its modules.json has the name {twice[0]} twice, so one of the two modules would be left out: give them "
            "different names"
        )
    for module in modules_of(folder):
        if module.is_of_the_library:
            yield from _unknown(module)
        elif not spec.trust_remote_code:
            yield trust_text(spec.name)
        if spec.trust_remote_code and with_code:
            yield from _missing_class(folder, module)
            yield from _missing_code(module.folder)
    first = modules_for(folder, "document")[:1]
    if first and first[0].is_of_the_library and first[0].kind in _READS_NO_TEXT:
        yield (
            f"its modules.json begins with {first[0].kind}, which cannot read texts: put the modules into the order in "
            "which a text goes through them, Transformer first"
        )


def trust_text(name: str) -> str:
    """What to do about a model that runs code of its own, as the end of a sentence."""
    return (
        f'it runs its own code; read that code, and then set trust_remote_code = true under [models."{name}"] in the '
        "catalogue"
    )


def _unreadable(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or not isinstance(module_folder := entry.get("path"), str):
        return  # the reader of pipelines refuses it
    if "name" not in entry:
        yield f"its modules.json gives the module {entry.get('type')} no name: add idx and name to all of its modules"
    if "\\" in module_folder:
        yield f"its modules.json names the folder {module_folder} with a backslash: write / instead"
    if Path(module_folder).is_absolute() or ".." in Path(module_folder).parts:
        yield (
            f"its modules.json gives its module {entry.get('name')} a folder outside the model's folder, or a whole "
            "path: put that folder into the model's, and write only its name"
        )


def _unknown(module: ModuleEntry) -> Iterator[str]:
    if module.kind in _EARLY_TRANSFORMERS:
        yield (
            f"its modules.json has the module {module.type}, as sentence-transformers wrote it before 0.3: write "
            "sentence_transformers.models.Transformer instead"
        )
    elif module.kind not in LIBRARY_MODULES:
        yield (
            f"its modules.json has the module {module.type}, which the installed sentence-transformers does not have: "
            "install a version that has that module"
        )


def _missing_class(folder: Path, module: ModuleEntry) -> Iterator[str]:
    """A fault where a class outside sentence-transformers is neither in the folder nor in a package or a repository."""
    name = module.type.rpartition(".")[0]
    if module.is_of_the_library or "--" in name:
        return
    if not (folder / f"{name}.py").is_file() and not _is_importable(name.partition(".")[0]):
        yield (
            f"its modules.json has the module {module.type}, and there is neither {name}.py nor a package of that "
            "name: copy that file into the model's folder, or install the package"
        )


def _missing_code(folder: Path) -> Iterator[str]:
    """A fault where the code of a network should be in its folder, by its config.json, and is missing."""
    for what in ("AutoConfig", "AutoModel"):
        named = (read_object(folder / "config.json").get("auto_map") or {}).get(what)
        if isinstance(named, str) and "--" not in named:
            file = folder / f"{named.partition('.')[0]}.py"
            if not file.is_file():
                yield f"{file}, which its config.json names (auto_map), is missing: copy it from the original model"


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
