"""The query side of a run as a folder of its own: `questions.json`, its fusion's matrices, and copies of its models.

Kilobytes without the models and the matrices. There is no chunk and no vector of the run in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from soloist.config import RunConfig
from soloist.errors import ConfigError
from soloist.exports.folders import ExportFolder, export_folder
from soloist.exports.model_copies import Copy, Original, copies_of, original_of, remove_other_copies, write_copy
from soloist.exports.report import ExportReport
from soloist.exports.rows import Source
from soloist.exports.target import Target
from soloist.fusion import FusionPlan
from soloist.fusion_methods import FUSED
from soloist.models.catalogue import is_hub_id
from soloist.models.recorded import spec_values
from soloist.models.spec import ModelSpec
from soloist.models.whereabouts import spec_in_run
from soloist.stores.atomic import disk_errors
from soloist.stores.index_files import open_index
from soloist.stores.layout import FIT
from soloist.stores.questions_file import MODELS, QUESTIONS, fit_name, questions_text
from soloist.words.bm25 import K1, B

_KIND = "questions"
_WAY_ON = "export it again"
_NO_COLUMNS = pa.schema([])
_MODEL_FIELDS = (
    "name", "fingerprint", "revision", "dim", "dtype", "document_prompt", "query_prompt", "max_tokens",
    "matryoshka_dims",
)  # fmt: skip


def export(source: Source, target: Target) -> ExportReport:
    """Write the folder, or bring it up to date with the run.

    Raises:
        ConfigError: vectors or collections are chosen, or a model is not found or is not the run's.
        ModelLoadError: a model cannot be copied.
        ExportError: the folder is somebody else's.
    """
    if source.others or not source.whole:
        raise ConfigError("an export to questions has all members and no chunks: leave out --vectors and --collections")
    with export_folder(source, target, _KIND) as folder:
        return _filled(folder, source, target)


def _filled(folder: ExportFolder, source: Source, target: Target) -> ExportReport:
    summary = source.folder.read_json("run.json")
    specs = _specs(summary, target.catalogue)
    originals = {
        model["name"]: _original(model, specs[model["name"]]) for model in summary["models"] if target.with_models
    }
    copies = copies_of(originals)
    content = {
        "soloist": _version(),
        "run": source.run,
        "chunks": source.rows,
        "models": [
            _model(model, specs[model["name"]], originals.get(model["name"]), copies.get(model["name"]))
            for model in summary["models"]
        ],
        "words": [_words(source, member) for member in summary.get("words", ())],
        "fusion": summary["fusion"],
        "hybrid": summary.get("hybrid"),
        "copies": {copy.name: dict(copy.files) for copy in copies.values()},
    }
    files = _files(content, _fit(source, summary["fusion"]))
    source.unchanged.require(_WAY_ON)
    folders = {copy.name: copy for copy in copies.values()}
    for copy in folders.values():
        write_copy(folder.path / MODELS, copy)
    for name, written in files.items():
        _write(folder, name, written)
    folder.finish(files)
    remove_other_copies(folder.path / MODELS, folders)
    return _report(folder.path, source, specs, {name: len(written) for name, written in files.items()}, folders)


def _specs(summary: Mapping[str, Any], catalogue: Path | None) -> dict[str, ModelSpec]:
    config = RunConfig.from_dict(summary["config"])
    top = config.sparse_top or None
    return {
        model["name"]: replace(
            spec_in_run(model["name"], config, catalogue), kind=model.get("kind", "dense"), sparse_top=top
        )
        for model in summary["models"]
    }


def _original(model: Mapping[str, Any], spec: ModelSpec) -> Original:
    return original_of(
        spec, model["dtype"], fingerprint=model["fingerprint"], files=model.get("files", {}),
        revision=model["revision"],
    )  # fmt: skip


def _model(
    model: Mapping[str, Any], spec: ModelSpec, original: Original | None, copy: Copy | None
) -> Mapping[str, Any]:
    """What is recorded of a model: how the run used it, and where it is found."""
    return {
        **{name: model[name] for name in _MODEL_FIELDS if name in model},
        "kind": model.get("kind", "dense"),
        "files": dict(original.contents) if original is not None else model.get("files", {}),
        "spec": spec_values(spec),
        "copy": copy.name if copy is not None else None,
    }


def _words(source: Source, member: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a lexical member cuts words, and what BM25 needs to know of all chunks but the counts of terms."""
    indexes = [open_index(source.folder.path, collection, member["name"]) for collection in source.collections]
    rows, words = sum(index.rows for index in indexes), sum(index.words for index in indexes)
    return {
        "name": member["name"],
        "fingerprint": member["fingerprint"],
        "language": member["language"],
        "k1": K1,
        "b": B,
        "mean_words": words / rows if rows else 0.0,
    }


def _fit(source: Source, fusion: Mapping[str, Any] | None) -> bytes | None:
    """The file of the fusion's matrices; None where it has none."""
    if fusion is None or not FusionPlan.from_dict(fusion).needs_fit:
        return None
    with disk_errors(source.folder.path / FIT):
        return (source.folder.path / FIT).read_bytes()


def _files(content: Mapping[str, Any], fit: bytes | None) -> dict[str, bytes]:
    """The files by name, in the order in which they are written: with `questions.json` all others count."""
    beside = {fit_name(fit): fit} if fit is not None else {}
    return {**beside, QUESTIONS: questions_text({**content, "fit": next(iter(beside), None)}).encode()}


def _write(folder: ExportFolder, name: str, content: bytes) -> None:
    of = hashlib.sha256(content).hexdigest()
    if not folder.has(name, of):
        with folder.replacing(name, of, _NO_COLUMNS) as temp:
            temp.write_bytes(content)


def _version() -> str | None:
    try:
        return version("soloist")
    except PackageNotFoundError:  # it is imported from a folder
        return None


def _report(
    path: Path,
    source: Source,
    specs: Mapping[str, ModelSpec],
    files: Mapping[str, int],
    copies: Mapping[str, Copy],
) -> ExportReport:
    for copy in copies.values():
        with disk_errors(path):
            names = {f"{MODELS}/{copy.name}/{file}": path / MODELS / copy.name / file for file in copy.files}
            files = {**files, **{name: file.stat().st_size for name, file in names.items()}}
    return ExportReport(
        target=str(path), rows=0, written=0, unchanged=0, deleted=0, compared=0, files=files,
        vectors={name: _shown(source, name) for name in source.names},
        notes=() if copies else tuple(_elsewhere(spec) for spec in specs.values() if _is_folder(spec)),
    )  # fmt: skip


def _shown(source: Source, name: str) -> str:
    if name in source.ragged:
        return "words" if source.ragged[name].kind == "lexical" else "sparse"
    return f"{source.dims[name]} dims" if name != FUSED else f"{source.dims[name]} dims, fused"


def _is_folder(spec: ModelSpec) -> bool:
    return spec.package is None and not is_hub_id(spec.source)


def _elsewhere(spec: ModelSpec) -> str:
    return f"{spec.name} is read from {spec.source}: for another machine export --with-models"
