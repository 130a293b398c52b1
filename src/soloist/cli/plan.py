"""`soloist plan`: estimate what a run needs, before any weights are loaded."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from soloist.cli import options
from soloist.cli.lists import split
from soloist.cli.options import choices
from soloist.cli.outcome import FAILED, exit_codes, importing, written_to_stdout
from soloist.config import RunConfig, seconds_of
from soloist.fusion_methods import fusion_choices
from soloist.types import Mode, VectorDType

_AS_FOR_EMBED = "As for embed."
_ACCELERATOR_HELP = "As for embed; simulated:2xT4 plans for two T4 on any machine."
_SESSION_HELP = "The time that you have on the machine, e.g. 9h, 8h30m, 45m or 90s."
_OUT_HELP = """The folder that embed would write. The plan checks the free space there. If the folder has
a run, the plan uses the settings of that run; embed --dry-run shows what would change. [default: a new folder here]"""
_NODES_HELP = "Plan for so many machines like this one, at least 1. See --cluster of embed."
_CACHE_HELP = "The folder where runs keep what they measure. [default: the user's cache folder]"


def _option(help_: str, metavar: str, envvar: str | None = None) -> Any:
    return typer.Option(help=help_, metavar=metavar, envvar=envvar)


def plan(
    chunks_root: Annotated[str, typer.Argument(metavar="CHUNKS", help="The folder with the collections.")],
    models: Annotated[list[str] | None, _option(_AS_FOR_EMBED, "A,B")] = None,
    collections: Annotated[list[str] | None, _option("Only these collections. [default: all]", "A,B")] = None,
    accelerator: Annotated[str | None, _option(_ACCELERATOR_HELP, "KIND", "SOLOIST_ACCELERATOR")] = None,
    session: Annotated[str | None, _option(_SESSION_HELP, "TIME")] = None,
    mode: Annotated[
        str | None, _option("Say whether a run in this mode fits. [default: exclusive]", choices(Mode))
    ] = None,
    fusion: Annotated[str | None, _option(_AS_FOR_EMBED, "|".join(fusion_choices()))] = None,
    dtype: options.DType = None,
    vector_dtype: Annotated[str | None, _option(_AS_FOR_EMBED, choices(VectorDType))] = None,
    token_budget: Annotated[int | None, _option(_AS_FOR_EMBED, "NUMBER")] = None,
    catalogue: Annotated[str | None, _option(_AS_FOR_EMBED, "PATH", "SOLOIST_CATALOGUE")] = None,
    out: Annotated[str | None, _option(_OUT_HELP, "PATH")] = None,
    nodes: Annotated[int, typer.Option(metavar="NUMBER", min=1, help=_NODES_HELP)] = 1,
    cache_dir: Annotated[str | None, _option(_CACHE_HELP, "PATH", "SOLOIST_CACHE_DIR")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
    debug: options.Debug = False,
) -> None:
    """Estimate what a run needs and whether it fits: tokens, memory, batches, time, disk, download.

    Loads no weights. The exit code is 1 where the run does not fit, or where that is not known.
    """
    given = dict(locals())
    for name in ("session", "nodes", "as_json", "debug"):
        del given[name]
    with exit_codes(debug=debug):
        given |= {"models": split("--models", models), "collections": split("--collections", collections)}
        config = RunConfig.from_mapping({}, origin="the command line", **{**given, "out": "." if out is None else out})
        fits = _run(config, seconds_of("--session", session) if session is not None else None, nodes, as_json)
    if not fits:
        raise typer.Exit(FAILED)


def _run(config: RunConfig, session_seconds: float | None, nodes: int, as_json: bool) -> bool:
    """Whether the run is known to fit."""
    with importing():
        from soloist.planning.estimate import estimate_run
        from soloist.reports.estimate import print_estimate
        from soloist.reports.table import open_console

    estimate = estimate_run(config, session_seconds, nodes=nodes)
    with written_to_stdout("the plan"):
        if as_json:
            typer.echo(json.dumps(estimate.to_dict(), indent=2))
        else:
            print_estimate(estimate, open_console(sys.stdout))
    return estimate.fits is True
