"""`soloist status` and `soloist verify`: what there is of a run, and whether it is whole."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.embed import print_changes_of
from soloist.cli.outcome import FAILED, exit_codes, importing, written_to_stdout
from soloist.config import RunConfig
from soloist.reports.text import one_line
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.stores.verification import Verified

_RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that soloist embed wrote.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def status(
    run_dir: _RunDir,
    chunks_root: Annotated[
        str | None, typer.Argument(metavar="CHUNKS", help="Show what a run over these chunks would change.")
    ] = None,
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """Show how far a run is: what is done, what is left, at which rate, and when it would end.

    The time left is of encoding alone, at the rate of each model's last session; the hour of its end is local time.
    With CHUNKS, show instead how many chunks of each collection are new, changed, gone and unchanged, as
    embed --dry-run does.
    """
    with exit_codes(debug=debug):
        if chunks_root is not None:
            from soloist.stores.run_folder import RunFolder

            RunFolder.at(run_dir)  # else all chunks would count as new
            print_changes_of(RunConfig(chunks_root=Path(chunks_root), out=run_dir), as_json=as_json)
            return
        with importing():
            from soloist.reports.status import print_status
            from soloist.reports.table import open_console
            from soloist.stores.status import run_status

        found = run_status(run_dir)
        with written_to_stdout("the status"):
            if as_json:
                typer.echo(json.dumps(found.to_dict(), indent=2))
            else:
                print_status(found, open_console(sys.stdout), time.time())


def verify(run_dir: _RunDir, as_json: _Json = False, debug: _Debug = False) -> None:
    """Verify a finished run: one row for each chunk, model and fusion, checksums, norms, dimensions.

    Each thing that is wrong has a line, and the exit code is then 1. It is 1 too if the run is not finished: the first
    line says so, and only the checksums of finished files are checked.
    """
    with exit_codes(debug=debug):
        with importing():
            from soloist.stores.run_folder import RunFolder
            from soloist.stores.verification import verify_run

        found = verify_run(RunFolder.at(run_dir))
        with written_to_stdout("what was verified"):
            if as_json:
                typer.echo(json.dumps({"holds": not found.problems, **dataclasses.asdict(found)}, indent=2))
            else:
                for problem in found.problems:
                    typer.echo(one_line(problem))
                what = f"{count_text(found.chunks, 'chunk')} in {count_text(found.collections, 'collection')}"
                typer.echo(f"{what}, {count_text(found.files, 'file')}: {_verdict(found)}")
    if found.problems:
        raise typer.Exit(FAILED)


def _verdict(found: Verified) -> str:
    wrong = len(found.problems) - (not found.finished)
    parts = [] if found.finished else ["not finished"]
    parts += [count_text(wrong, "problem")] if wrong else []
    return ", ".join(parts) or "no problems"
