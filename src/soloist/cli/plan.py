"""`soloist plan`: what a run would need, before any weights are loaded."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from soloist.cli import options
from soloist.cli.lists import split
from soloist.cli.options import choices
from soloist.cli.outcome import FAILED, exit_codes, importing, written_to_stdout
from soloist.config import RunConfig, seconds_of
from soloist.fusion_methods import fusion_choices
from soloist.types import Mode, VectorDType

_OUT_HELP = """The folder that embed would write. Its free space counts, and so do the settings of a run that is there.
embed --dry-run shows what would change. [default: here, with nothing in it]"""


def plan(
    chunks_root: Annotated[str, typer.Argument(metavar="CHUNKS_ROOT", help="The folder with the collections.")],
    models: Annotated[list[str] | None, typer.Option(metavar="A,B", help="As for embed.")] = None,
    collections: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Only these. [default: all]")] = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            envvar="SOLOIST_ACCELERATOR", metavar="KIND", help="As for embed; simulated:2xT4 plans for two T4 anywhere."
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="9h", help="The length of the session, e.g. 9h, 8h30m, 45m or 90s.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar=choices(Mode), help="The mode that has to fit. [default: exclusive]")
    ] = None,
    fusion: Annotated[str | None, typer.Option(metavar="|".join(fusion_choices()), help="As for embed.")] = None,
    dtype: options.DType = None,
    vector_dtype: Annotated[str | None, typer.Option(metavar=choices(VectorDType), help="As for embed.")] = None,
    token_budget: Annotated[int | None, typer.Option(help="As for embed.")] = None,
    catalogue: Annotated[
        str | None,
        typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="As for embed."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="PATH", help=_OUT_HELP)] = None,
    cache_dir: Annotated[
        str | None, typer.Option(envvar="SOLOIST_CACHE_DIR", metavar="PATH", help="Where runs keep what they measure.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
    debug: options.Debug = False,
) -> None:
    """Say what a run would need and whether it fits: tokens, memory, batches, time, disk, download.

    Loads no weights. Exit code 1 where it does not fit, or where that is not known.
    """
    with exit_codes(debug=debug):
        config = RunConfig.from_mapping(
            {}, origin="the command line", chunks_root=chunks_root, out="." if out is None else out,
            models=split("--models", models),
            collections=split("--collections", collections), accelerator=accelerator, mode=mode, fusion=fusion,
            dtype=dtype, vector_dtype=vector_dtype, token_budget=token_budget, catalogue=catalogue, cache_dir=cache_dir,
        )  # fmt: skip
        fits = _run(config, seconds_of("--session", session) if session is not None else None, as_json)
    if not fits:
        raise typer.Exit(FAILED)


def _run(config: RunConfig, session_seconds: float | None, as_json: bool) -> bool:
    """Whether the run is known to fit."""
    with importing():
        from soloist.planning.estimate import estimate_run
        from soloist.reports.estimate import print_estimate
        from soloist.reports.table import open_console

    found = estimate_run(config, session_seconds)
    with written_to_stdout("the plan"):
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2))
        else:
            print_estimate(found, open_console(sys.stdout))
    return found.fits is True
