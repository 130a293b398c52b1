"""Folders of sparse encoders (SPLADE), as sentence-transformers' SparseEncoder saves them. Pure: files in, no torch.

A dense model may have a layer beside its network that gives each token a weight; its folder is looked at here too.
A sparse encoder gives every word of its vocabulary a weight. soloist follows two pipelines of them. Documents go
through a network that predicts masked words, and SpladePooling. Queries take the same way, or a table with one weight a
token (SparseStaticEmbedding), which needs no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soloist.models.own_settings import PIPELINE_FILE, read_object, read_transformer
from soloist.models.pipeline import ModuleEntry, Task, modules_for
from soloist.types import MemberKind

SPARSE_TYPE = "SparseEncoder"
# Beside the network of a dense model, the linear layer that gives each token a weight, as in bge-m3.
TOKEN_WEIGHTS_FILE = "sparse_linear.pt"
# Modules that only sparse encoders have.
SPARSE_MODULES = frozenset({"MLMTransformer", "SparseAutoEncoder", "SparseStaticEmbedding", "SpladePooling"})
# The transformer_task of a network that predicts masked words.
MASKED_WORDS = "fill-mask"
_NETWORKS = ("Transformer", "MLMTransformer")
_TABLE = "SparseStaticEmbedding"
_SIDES: tuple[tuple[Task, str], ...] = (("document", "documents"), ("query", "queries"))
_CHOOSE_SPLADE = "choose a SPLADE model, or a dense text encoder"


def kind_of_folder(folder: Path) -> MemberKind:
    """What a model's folder says that it makes of a text. Folders without settings hold dense models."""
    return "sparse" if read_object(folder / PIPELINE_FILE).get("model_type") == SPARSE_TYPE else "dense"


def most_active(pipeline: Mapping[str, Any], top: int | None = None) -> int | None:
    """How many words of a text keep their weight, by a sparse encoder's own settings; None where all do.

    `top` is what a run keeps of a document. Of both bounds the lower one holds.
    """
    value = pipeline.get("max_active_dims")
    bounds = [bound for bound in (value, top) if isinstance(bound, int)]
    return min(bounds, default=None)


def faults_of_sparse_encoder(folder: Path) -> Iterator[str]:
    """Why a sparse encoder cannot be followed, as ends of a sentence. Its modules.json can be read.

    Raises:
        RouteError: a router has no route for documents or for queries.
    """
    active = read_object(folder / PIPELINE_FILE).get("max_active_dims")
    if active is not None and (isinstance(active, bool) or not isinstance(active, int) or active < 1):
        yield f"it sets max_active_dims to {json.dumps(active)}, which is not a number of words; correct it"
    for task, many in _SIDES:
        modules = modules_for(folder, task)
        if not _is_splade(modules) and not (task == "query" and _is_table(modules)):
            names = ", ".join(module.kind for module in modules) or "no module"
            yield (
                f"it is a sparse encoder whose {many} go through {names} (modules.json), and soloist follows only a "
                f"network for masked words with SpladePooling: {_CHOOSE_SPLADE}"
            )
        if _is_table(modules) and read_object(modules[0].folder / "config.json").get("path") is not None:
            yield (
                f"it reads the weights of its queries from another file (path in {modules[0].folder / 'config.json'}), "
                "which soloist does not follow: save the model again with SparseEncoder.save"
            )


def faults_of_token_weights(folder: Path, *, may_lack: bool) -> Iterator[str]:
    """Why a dense model's network cannot give each token a weight, as ends of a sentence. Its modules.json can be read.

    With `may_lack` the file of the layer may be missing: an earlier download may have left it out.

    Raises:
        RouteError: a router has no route for documents or for queries.
    """
    if kind_of_folder(folder) == "sparse":
        yield "it is a sparse encoder already: leave out :sparse"
    documents, queries = (modules_for(folder, task) for task, _ in _SIDES)
    if documents != queries:
        yield "its documents and its queries go through different modules, and token weights have one network for both"
    if not documents or documents[0].kind != "Transformer" or not documents[0].is_of_the_library:
        yield "it has no Transformer as its first module, whose tokens could have weights: leave out :sparse"
    path = folder / TOKEN_WEIGHTS_FILE
    if not path.is_file() and not may_lack:
        yield (
            f"{path} is missing, the layer that gives each token a weight: copy it there, or leave out :sparse if the "
            "model has none"
        )


def _is_splade(modules: tuple[ModuleEntry, ...]) -> bool:
    if [m.is_of_the_library for m in modules] != [True, True]:
        return False
    first, last = modules
    task = read_transformer(first.folder).settings.get("transformer_task")
    predicts_words = task == MASKED_WORDS or (first.kind == "MLMTransformer" and task is None)
    return first.kind in _NETWORKS and predicts_words and last.kind == "SpladePooling"


def _is_table(modules: tuple[ModuleEntry, ...]) -> bool:
    return len(modules) == 1 and modules[0].is_of_the_library and modules[0].kind == _TABLE
