"""`soloist calibrate`: measure once how many tokens a batch should have on this machine, and keep the result."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer

from soloist.cli import options
from soloist.cli.lists import split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.way_on import always
from soloist.config import DEFAULT_MODELS, CalibrationConfig

_MODELS_HELP = f"""Catalogue names, folders or hub ids. [default: {",".join(DEFAULT_MODELS)}]"""
_WAY_ON = always("the budgets that were measured are kept, and the same command measures all models again")
_CACHE_HELP = "The folder that keeps the results; embed and plan read it there. [default: the user's cache folder]"


def calibrate(
    models: Annotated[list[str] | None, typer.Option(metavar="A,B", help=_MODELS_HELP)] = None,
    accelerator: Annotated[
        str | None, typer.Option(envvar="SOLOIST_ACCELERATOR", metavar="KIND", help="As for embed.")
    ] = None,
    dtype: options.DType = None,
    catalogue: Annotated[
        str | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="As for embed.")
    ] = None,
    lock_dir: Annotated[
        str | None, typer.Option(envvar="SOLOIST_LOCK_DIR", metavar="PATH", help="As for embed.")
    ] = None,
    lease_timeout_seconds: Annotated[float | None, typer.Option(metavar="NUMBER", help="As for embed.")] = None,
    cache_dir: Annotated[str | None, typer.Option(envvar="SOLOIST_CACHE_DIR", metavar="PATH", help=_CACHE_HELP)] = None,
    sample_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="About how many seconds one measurement takes; a model needs about 15 of them. [default: 3]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the budgets as one JSON object.")] = False,
    debug: options.Debug = False,
) -> None:
    """Measure how many tokens a batch should have, for each model on this machine's devices, and keep the result.

    The smallest budget within 3% of the fastest is chosen. Later runs and plans use it. A run that was begun before
    keeps its own budget.
    """
    given = dict(locals())
    del given["as_json"], given["debug"]
    with exit_codes(debug=debug, way_on=_WAY_ON):
        given["models"] = split("--models", models)
        _run(CalibrationConfig(**{name: value for name, value in given.items() if value is not None}), as_json)


def _run(config: CalibrationConfig, as_json: bool) -> None:
    with importing():
        from soloist.reports.calibration import print_calibrations
        from soloist.reports.progress import progress
        from soloist.reports.table import open_console
        from soloist.sizing.budgets import CalibrationCache
        from soloist.sizing.calibration import calibrate as measure

    path = CalibrationCache(config.cache_dir).path
    with progress(sys.stderr) as sink:
        results = measure(config, sink)
    with written_to_stdout("the table", before=f"the budgets are in {path}, but "):
        if as_json:
            budgets = [dataclasses.asdict(result) for result in results]
            typer.echo(json.dumps({"file": str(path), "models": budgets}, indent=2))
        else:
            print_calibrations(results, path, open_console(sys.stdout))
