"""`soloist report`: a run folder, or two, to one file of HTML."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from soloist.broken_imports import load_optional
from soloist.errors import ConfigError, OutputPathError
from soloist.jsontext import json_text
from soloist.reports.run_report.fields import Fields
from soloist.reports.run_report.gathering import gather
from soloist.stores.atomic import atomic_path, disk_errors

if TYPE_CHECKING:
    from soloist.retrieval.evaluation import Evaluation
    from soloist.retrieval.opened import OpenedRun

DEFAULT_NAME = "report.html"
_MOST_RUNS = 2
_HEAD_BYTES = 400
_MARK = b'<meta name="generator" content="soloist report'


def report(
    run: OpenedRun | Path | str,
    out: Path | str = DEFAULT_NAME,
    *,
    beside: OpenedRun | Path | str | None = None,
    evaluations: Evaluation | Sequence[Evaluation] = (),
) -> Path:
    """Write a report of a run as one HTML file that needs no network, and give the path of the file.

    `run` is a run folder, or what `open_run` gave. `beside` is another run, which is shown beside the first.
    `evaluations` has one evaluation for each run, in the order of the runs, or is the evaluation of the first run. The
    runs need not be finished. An older report at `out` is replaced.

        soloist.report("run", "report.html")

    Raises:
        ConfigError: matplotlib or jinja2 is not installed; or an evaluation is of another run.
        OutputPathError: a run is not there; or `out` cannot be the file.
        OutputError: the file cannot be written.
    """
    runs = [each for each in (run, beside) if each is not None]
    folders = [Path(each if isinstance(each, (str, os.PathLike)) else each.path) for each in runs]
    listed = evaluations if isinstance(evaluations, Iterable) else [evaluations]
    # As in JSON, so that an evaluation and its file give the same report.
    given = [Fields.of(json.loads(json_text(evaluation.to_dict()))) for evaluation in listed]
    return write_report(folders, Path(out), given)


def write_report(runs: Sequence[Path], out: Path, evaluations: Sequence[Fields | None] = ()) -> Path:
    """Write the report of a run, or of two beside each other; the path of the file.

    `evaluations` has one evaluation for each run, in the order of the runs.

    Raises:
        ConfigError: a library is not installed; there are more than two runs; or an evaluation is of another run.
        OutputPathError: a run is not there; or `out` is a folder, is inside a run, or is a file that is not a report.
        OutputError: the file cannot be written.
    """
    require_libraries()
    if not 1 <= len(runs) <= _MOST_RUNS:
        raise ConfigError(f"there are {len(runs)} runs: give one run, or two to show them beside each other")
    if len(evaluations) > len(runs):
        raise ConfigError(f"there are {len(evaluations)} evaluations of {len(runs)} runs: give one for each run")
    _require_own(out, runs)
    given = [*evaluations, *[None] * (len(runs) - len(evaluations))]
    facts = [gather(run, evaluation) for run, evaluation in zip(runs, given, strict=True)]
    from soloist.installed import versions
    from soloist.reports.run_report.page import page

    text = page(facts, versions().get("soloist", ""))
    with atomic_path(out) as temp, disk_errors(out):
        temp.write_text(text, encoding="utf-8", newline="\n")
    return out


def remove_report(path: Path) -> None:
    """Remove the report of an earlier call, and no other file.

    Raises:
        OutputError: the file cannot be read or removed.
    """
    with disk_errors(path):
        if path.is_file() and _is_report(path):
            path.unlink()


def require_libraries() -> None:
    """Refuse a machine without the libraries that make reports.

    Raises:
        ConfigError: a library is not installed, or cannot be loaded.
    """
    for module, package in (("matplotlib.figure", "matplotlib"), ("jinja2", "jinja2")):
        load_optional(module, what="soloist report", package=package, extra="report")


def _require_own(out: Path, runs: Sequence[Path]) -> None:
    """Refuse to replace a file that is not a report, or to write into a run: that could spoil a run that just began."""
    if out.is_dir():
        raise OutputPathError(f"{out} is a folder: give the name of a file, such as {out / DEFAULT_NAME}")
    path = Path(os.path.realpath(out))
    for run in runs:
        if path.is_relative_to(os.path.realpath(run)):
            raise OutputPathError(f"{out} is inside the run {run}: give a file outside of it, such as {DEFAULT_NAME}")
    if out.exists() and not _is_report(out):
        raise OutputPathError(f"{out} exists, and is not a report of soloist: choose another file, or remove that file")


def _is_report(path: Path) -> bool:
    with disk_errors(path), path.open("rb") as file:
        return _MARK in file.read(_HEAD_BYTES)
