"""`soloist status` and `soloist verify`: what there is of a run, and whether it is whole."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.outcome import FAILED, exit_codes, written_to_stdout
from soloist.reports.text import clock_text, count_text, one_line

if TYPE_CHECKING:
    from soloist.stores.status import ModelStatus, RunStatus

_RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder that soloist embed wrote.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_COLUMNS = ("model", "done", "chunks", "shards", "chunks/s", "left")


def status(run_dir: _RunDir, as_json: _Json = False, debug: _Debug = False) -> None:
    """Show how far a run is: what is done, what is left, at which rate, and when it would end.

    The time left is of encoding alone, at the rate of each model's last session.
    """
    with exit_codes(debug=debug):
        from soloist.stores.status import run_status

        found = run_status(run_dir)
        with written_to_stdout("the status"):
            if as_json:
                typer.echo(json.dumps(found.to_dict(), indent=2))
            else:
                _print_status(found)


def verify(run_dir: _RunDir, as_json: _Json = False, debug: _Debug = False) -> None:
    """Verify a finished run: one row for each chunk, model and fusion, checksums, norms, dimensions.

    Exit code 1 where something is wrong, with a line for each.
    """
    with exit_codes(debug=debug):
        from soloist.stores.run_folder import RunFolder
        from soloist.stores.verification import verify_run

        found = verify_run(RunFolder.open(run_dir))
        with written_to_stdout("what was verified"):
            if as_json:
                typer.echo(json.dumps({"holds": not found.problems, **dataclasses.asdict(found)}, indent=2))
            else:
                for problem in found.problems:
                    typer.echo(one_line(problem))
                what = f"{count_text(found.chunks, 'chunk')} in {count_text(found.collections, 'collection')}"
                verdict = count_text(len(found.problems), "problem") if found.problems else "all is as it should be"
                typer.echo(f"{what}, {count_text(found.files, 'file')}: {verdict}")
    if found.problems:
        raise typer.Exit(FAILED)


def _print_status(found: RunStatus) -> None:
    from soloist.reports.table import open_console, print_table

    if found.models:
        print_table(open_console(sys.stdout), _COLUMNS, [_row(model) for model in found.models])
        typer.echo()
    if found.finished:
        state = "finished"
    elif found.at_work:
        state = "at work"
    else:
        ended = f" ({found.error})" if found.error else ""
        state = f"not finished and not at work{ended}: the command that began it goes on with it"
    left = (
        "" if found.finished or found.seconds_left is None else f"; {clock_text(found.seconds_left)} of encoding left"
    )
    typer.echo(one_line(f"{found.folder}: {state}{left}"))


def _row(model: ModelStatus) -> list[str]:
    rate, left = model.chunks_per_second, model.seconds_left
    return [
        model.name,
        f"{model.chunks_done / model.chunks:.0%}" if model.chunks else "-",
        f"{model.chunks_done:,} of {model.chunks:,}",
        f"{model.shards_done:,} of {model.shards:,}",
        f"{rate:,.1f}" if rate else "unknown",
        clock_text(left) if left is not None else "unknown",
    ]
