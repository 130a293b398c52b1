"""`soloist serve`: questions over HTTP, until Ctrl-C."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.way_on import always
from soloist.serving import DEFAULT_HOST, DEFAULT_PORT, load
from soloist.serving import serve as serve_until_stopped
from soloist.serving.keys import KEY_VARIABLE

_DIR_HELP = "The folder of a run, or what soloist export --to questions wrote."
_HOST_HELP = f"The address to listen at. Where other machines reach it, {KEY_VARIABLE} has to be set."
_PORT_HELP = "The port to listen at. 0 is any free port."
_CATALOGUE_HELP = "A TOML file of your models, if those of the run are in other places on this machine."
_DEBUG_HELP = "Show the traceback of an error, which may have a path or a text in it."


def serve(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help=_DIR_HELP)],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help=_HOST_HELP)] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(metavar="NUMBER", help=_PORT_HELP)] = DEFAULT_PORT,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help=_CATALOGUE_HELP)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help=_DEBUG_HELP)] = False,
) -> None:
    """Answer questions over HTTP: vectors as OpenAI's clients ask for them, and searches of a run.

    Ctrl-C and SIGTERM finish what is in work; a second one ends the server at once. The environment variable
    SOLOIST_API_KEY is the key that clients have to send. Without it, only this machine may ask.
    """
    with exit_codes(debug=debug, way_on=always("the same command starts the server again")):
        with importing():
            load()
        serve_until_stopped(
            directory, host=host, port=port, api_key=os.environ.get(KEY_VARIABLE), catalogue=catalogue, debug=debug,
            say=_say,
        )  # fmt: skip


def _say(line: str) -> None:
    with written_to_stdout("where the server listens"):
        typer.echo(line)
