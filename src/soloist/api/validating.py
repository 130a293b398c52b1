"""The validation plan as a call: the rehearsal, its judgement, and the two files of the report."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from soloist.api.settings import AnyPath, GivenChunks, Settings, config_of
from soloist.api.showing import shown_progress
from soloist.config import RunConfig
from soloist.devices.cuda_check import has_cuda
from soloist.errors import ConfigError, SoloistError
from soloist.events import EventSink, ListSink
from soloist.installed import versions
from soloist.jsontext import json_text
from soloist.reports.run_report.writing import DEFAULT_NAME, remove_report, write_report
from soloist.reports.validation import checks_to_dict, markdown
from soloist.sources import input_of
from soloist.stores.atomic import atomic_path, disk_errors
from soloist.types import Mode
from soloist.validation import Validation, judge, rehearse
from soloist.validation.rehearsal import SAMPLE_CHUNKS, prepare_folder

if TYPE_CHECKING:
    from typing_extensions import Unpack

_logger = logging.getLogger("soloist")


def validate(
    chunks: RunConfig | AnyPath | GivenChunks,
    /,
    *,
    sample_chunks: int = SAMPLE_CHUNKS,
    quick: bool = False,
    progress: bool | None = None,
    **settings: Unpack[Settings],
) -> Validation:
    """Run the scenarios and the checklist of the validation plan on a sample of your chunks.

        soloist.validate("chunks", out="report", models=["all-MiniLM-L6-v2", "wordllama"])

    The arguments are those of `embed`; `out` gets nine runs, validation.json, validation.md and report.html. The
    accelerator is `cuda` where there is a GPU, else `simulated:2xT4`, unless you name one. `sample_chunks` are taken
    from all collections together. With `quick`, the checks that start processes of their own are left out.

    Raises:
        SoloistError: there are no chunks, or the models or the accelerator cannot be used at all.
    """
    if isinstance(sample_chunks, bool) or not isinstance(sample_chunks, int) or sample_chunks < 1:
        raise ConfigError(f"sample_chunks is {sample_chunks!r}: give a number of chunks of 1 or more")
    config, given = config_of("soloist.validate", chunks, settings)
    with shown_progress(progress) as shown:
        found = validated(config, shown or ListSink(), chunks=given, sample_chunks=sample_chunks, quick=quick)
    note = write_report_of(found)
    if note is not None:
        _logger.warning(note)
    return found


def validated(
    config: RunConfig, sink: EventSink, *, chunks: object = None, sample_chunks: int, quick: bool
) -> Validation:
    """Rehearse in the folder `out` of the config, judge, and write validation.json and validation.md there.

    Raises:
        SoloistError: as `validate`.
    """
    if config.accelerator == "auto":
        config = dataclasses.replace(config, accelerator="cuda" if has_cuda() else "simulated:2xT4")
    folder = Path(config.out)
    input_of(config, chunks, again="soloist.validate")  # refused before anything of the last validation goes
    prepare_folder(folder, config.root)
    remove_report(folder / DEFAULT_NAME)
    evidence = rehearse(config, folder, sink, chunks=chunks, sample_chunks=sample_chunks, quick=quick)
    found = Validation(folder=folder, checks=judge(evidence), evidence=evidence, versions=versions())
    texts = {
        "validation.json": json_text(checks_to_dict(found.checks, evidence, found.versions)) + "\n",
        "validation.md": markdown(found.checks, evidence, found.versions),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temp, disk_errors(folder / name):
            temp.write_text(text, encoding="utf-8")
    return found


def write_report_of(validation: Validation) -> str | None:
    """Show the runs in both modes beside each other, as report.html. If that fails, return a sentence that says why."""
    folder = validation.folder
    runs = [folder / mode for mode in get_args(Mode) if (folder / mode).is_dir()]  # a run may have failed early
    try:
        if runs:
            write_report(runs, folder / DEFAULT_NAME)
    except SoloistError as exc:
        return f"{DEFAULT_NAME} is not written: {exc}"
    return None
