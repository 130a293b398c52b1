"""`open_questions`: the query side of a run, from its folder, or from what `soloist export --to questions` wrote."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.errors import OutputError
from soloist.fusion import Fitted
from soloist.models.fingerprint import file_sha256
from soloist.models.recorded import recorded_spec, spec_of_values
from soloist.models.spec import ModelSpec
from soloist.retrieval.opened import questions_of
from soloist.retrieval.questions import Questions
from soloist.retrieval.run_record import EnsembleRecord, ModelRecord, ensemble_of, read_record
from soloist.stores import RunFolder
from soloist.stores.questions_file import (
    MODELS,
    damaged,
    is_questions_folder,
    read_fit_beside,
    read_questions,
    require_questions_or_run,
)


def open_questions(path: str | Path, *, catalogue: str | Path | None = None) -> Questions:
    """Open the query side of a run: its own folder, or the folder of its exported questions. No model is loaded yet.

    Give a `catalogue` file of your models if those of the run are in other places now.

    Raises:
        OutputError: there is neither a finished run nor the questions of one; or a file cannot be read, or was changed.
    """
    root, given = Path(path), Path(catalogue) if catalogue is not None else None
    require_questions_or_run(root)
    if not is_questions_folder(root):
        folder = RunFolder.open(root)
        return questions_of(folder, read_record(folder), given)
    described = read_questions(root, _described)
    matrices = read_fit_beside(root, described.fit) if described.fit is not None else ()
    find = functools.partial(_find, root, described, given)
    return Questions(root, described.record, find, lambda: Fitted(matrices=matrices))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What `questions.json` says. By the name of a model: its spec, and the folder of its copy, where it has one.
    By the name of such a folder: the sha256 of each file by its path in it.
    """

    record: EnsembleRecord
    fit: str | None
    specs: Mapping[str, ModelSpec]
    copies: Mapping[str, str | None]
    files: Mapping[str, Mapping[str, str]]


def _described(content: Any) -> _Described:
    return _Described(
        record=EnsembleRecord(**ensemble_of(content)),
        fit=content["fit"],
        specs={model["name"]: spec_of_values(model["spec"]) for model in content["models"]},
        copies={model["name"]: model["copy"] for model in content["models"]},
        files=content["copies"],
    )


def _find(root: Path, described: _Described, given: Path | None, model: ModelRecord) -> ModelSpec:
    """The spec of a model where it is now. A copy is held against its checksums first."""
    copy = described.copies[model.name]
    folder = root / MODELS / Path(copy).name if copy is not None else None
    spec = recorded_spec(described.specs[model.name], folder, given)
    if folder is not None and spec.source == str(folder):
        _require_whole(folder, described.files[folder.name])
    return spec


def _require_whole(folder: Path, files: Mapping[str, str]) -> None:
    """Refuse a copy with a file that was changed: also of those that decide a vector only by a setting.

    Raises:
        OutputError: there is one.
    """
    for name, sha256 in files.items():
        try:
            is_whole = file_sha256(folder / name) == sha256
        except OSError as exc:
            raise OutputError(
                f"{folder / name} cannot be read ({exc.strerror}): copy the folder again, or export the questions of "
                "the run again --with-models"
            ) from exc
        if not is_whole:
            raise damaged(folder / name)
