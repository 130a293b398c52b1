"""`soloist validate`: the validation plan's scenarios and checklist, run on the user's own chunks."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer

from soloist.cli import options
from soloist.cli.lists import split
from soloist.cli.outcome import FAILED, exit_codes, importing, written_to_stdout
from soloist.cli.way_on import always
from soloist.config import RunConfig
from soloist.errors import SoloistError
from soloist.types import Mode

_WAY_ON = always("the report was not finished, and the same command starts again")
_PACKAGES = ("soloist", "torch", "transformers", "sentence-transformers")
_SAMPLE_HELP = "How many chunks to take from all collections together: at least 1."
_DEVICES_HELP = "As for embed. [default: cuda where there is a GPU, else simulated:2xT4]"


def validate(
    chunks_root: Annotated[str, typer.Argument(metavar="CHUNKS", help="The folder with the collections.")],
    out: Annotated[str, typer.Option(metavar="PATH", help="The folder for the runs and the report.")],
    models: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="As for embed, but two models or more.")
    ] = None,
    collections: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Only these collections. [default: all]")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(envvar="SOLOIST_ACCELERATOR", metavar="KIND", help=_DEVICES_HELP)
    ] = None,
    dtype: options.DType = None,
    catalogue: Annotated[
        str | None,
        typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="A TOML file with models of your own."),
    ] = None,
    lock_dir: Annotated[
        str | None, typer.Option(envvar="SOLOIST_LOCK_DIR", metavar="PATH", help="As for embed.")
    ] = None,
    sample_chunks: Annotated[int, typer.Option(min=1, metavar="NUMBER", help=_SAMPLE_HELP)] = 200,
    quick: Annotated[bool, typer.Option("--quick", help="Skip the checks that start processes of their own.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print validation.json.")] = False,
    debug: options.Debug = False,
) -> None:
    """Run the scenarios and the checklist of the validation plan, and print whether each point holds on this machine.

    Nine runs are made over a sample of the chunks. validation.json and validation.md are written to --out, and
    report.html with figures of the runs in both modes. The exit code is 1 if a point fails.
    """
    with exit_codes(debug=debug, way_on=_WAY_ON):
        config = RunConfig.from_mapping(
            {}, origin="the command line", chunks_root=chunks_root, out=out, models=split("--models", models),
            collections=split("--collections", collections), accelerator=accelerator, dtype=dtype,
            catalogue=catalogue, lock_dir=lock_dir,
        )  # fmt: skip
        holds = _run(config, sample_chunks, quick, as_json)
    if not holds:
        raise typer.Exit(FAILED)


def _run(config: RunConfig, sample_chunks: int, quick: bool, as_json: bool) -> bool:
    """Whether no point fails."""
    import dataclasses

    with importing():
        import torch

        from soloist.jsontext import json_text
        from soloist.reports.progress import progress
        from soloist.reports.table import open_console
        from soloist.reports.validation import checks_to_dict, markdown, print_checks
        from soloist.stores.atomic import atomic_path, disk_errors
        from soloist.validation import judge, rehearse
        from soloist.validation.rehearsal import prepare_folder

    if config.accelerator == "auto":
        config = dataclasses.replace(config, accelerator="cuda" if torch.cuda.is_available() else "simulated:2xT4")
    folder = Path(config.out)
    prepare_folder(folder, config.chunks_root)
    with progress(sys.stderr) as sink:
        evidence = rehearse(config, folder, sink, sample_chunks=sample_chunks, quick=quick)
    results = judge(evidence)
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}
    texts = {
        "validation.json": json_text(checks_to_dict(results, evidence, versions)) + "\n",
        "validation.md": markdown(results, evidence, versions),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temp, disk_errors(folder / name):
            temp.write_text(text, encoding="utf-8")
    with written_to_stdout("the checklist", before=f"the report is in {folder}, but "):
        if as_json:
            typer.echo(texts["validation.json"], nl=False)
        else:
            print_checks(results, evidence, open_console(sys.stdout))
    _write_report(folder)
    return all(result.verdict != "fail" for result in results)


def _write_report(folder: Path) -> None:
    """Show the runs in both modes beside each other. Where that cannot be done, one sentence says why."""
    from soloist.reports.run_report.writing import DEFAULT_NAME, write_report

    runs = [folder / mode for mode in get_args(Mode) if (folder / mode).is_dir()]  # a run may have failed early
    try:
        if runs:
            write_report(runs, folder / DEFAULT_NAME)
    except SoloistError as exc:
        typer.echo(f"soloist: note: {DEFAULT_NAME} is not written: {exc}", err=True)
