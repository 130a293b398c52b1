"""`soloist validate`: the validation plan's scenarios and checklist, run on the user's own chunks."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from soloist.cli import options
from soloist.cli.lists import split
from soloist.cli.outcome import FAILED, exit_codes, importing, written_to_stdout
from soloist.cli.way_on import always
from soloist.config import RunConfig

_WAY_ON = always("the report was not finished, and the same command starts again")
_SAMPLE_HELP = "How many chunks to take from all collections together: at least 1."
_DEVICES_HELP = "As for embed. [default: cuda where there is a GPU, else simulated:2xT4]"


def validate(
    chunks_root: Annotated[str, typer.Argument(metavar="CHUNKS", help="The folder with the collections.")],
    out: Annotated[str, typer.Option(metavar="PATH", help="The folder for the runs and the report.")],
    models: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="As for embed. One model cannot show a hand-over.")
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
    with importing():
        from soloist.api.validating import validated, write_report_of
        from soloist.jsontext import json_text
        from soloist.reports.progress import progress
        from soloist.reports.table import open_console
        from soloist.reports.validation import checks_to_dict, print_checks

    with progress(sys.stderr) as sink:
        found = validated(config, sink, sample_chunks=sample_chunks, quick=quick)
    with written_to_stdout("the checklist", before=f"the report is in {found.folder}, but "):
        if as_json:
            typer.echo(json_text(checks_to_dict(found.checks, found.evidence, found.versions)))
        else:
            print_checks(found.checks, found.evidence, open_console(sys.stdout))
    note = write_report_of(found)
    if note is not None:
        typer.echo(f"soloist: note: {note}", err=True)
    return found.holds
