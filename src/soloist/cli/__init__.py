"""The command line: options become a config for one call. It computes nothing, and does not import torch."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from soloist.cli import models
from soloist.cli.calibrate import calibrate
from soloist.cli.embed import embed
from soloist.cli.encode import encode
from soloist.cli.evaluate import evaluate
from soloist.cli.export import export
from soloist.cli.mcp import mcp
from soloist.cli.outcome import open_missing_streams, through
from soloist.cli.plain_help import PlainCommand, PlainGroup
from soloist.cli.plan import plan
from soloist.cli.report import report
from soloist.cli.runs import status, verify
from soloist.cli.search import search
from soloist.cli.serve import serve
from soloist.cli.validate import validate

__all__ = ["app", "main"]

app = typer.Typer(
    name="soloist",
    cls=PlainGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "embed": embed,
    "plan": plan,
    "calibrate": calibrate,
    "status": status,
    "verify": verify,
    "search": search,
    "encode": encode,
    "serve": serve,
    "mcp": mcp,
    "eval": evaluate,
    "export": export,
    "report": report,
    "validate": validate,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=PlainCommand)(_command)
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        import soloist

        typer.echo(f"soloist {soloist.__version__}")
        raise typer.Exit


@app.callback()
def soloist(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Embed chunks with an ensemble of models, one at a time, each with every device to itself.

    Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong options
    or paths, 3 stopped early, 130 stopped at once by Ctrl-C. A stopped run keeps what it has finished.
    """


def main() -> NoReturn:
    """The console entry point; exits with 0, 1, 2, 3 or 130."""
    open_missing_streams()
    # A character that the terminal's encoding lacks must not cost the whole table.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    through(app)
