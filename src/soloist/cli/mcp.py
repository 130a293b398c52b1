"""`soloist mcp`: a run as a tool of an assistant, over stdin and stdout."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from soloist.cli.lists import numbers_by_name, split
from soloist.cli.outcome import exit_codes, importing
from soloist.cli.ranker_options import WEIGHTS_HELP, Chosen, chosen_by, with_ranker_options

_K_HELP = "How many hits an answer has, if the assistant does not say: at least 1, at most 100."
_COLLECTION_HELP = "Search only these collections. [default: all]"
_CATALOGUE_HELP = "A TOML file of your models, if those of the run are in other places on this machine."


@with_ranker_options
def mcp(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that soloist embed wrote.")],
    k: Annotated[int, typer.Option("-k", min=1, max=100, metavar="NUMBER", help=_K_HELP)] = 10,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "--collections", metavar="A,B", help=_COLLECTION_HELP)
    ] = None,
    rankers: Chosen = MappingProxyType({}),
    weights: Annotated[list[str] | None, typer.Option(metavar="A=.7,B=.3", help=WEIGHTS_HELP)] = None,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help=_CATALOGUE_HELP)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Give an assistant the tool `search` over a finished run, by the Model Context Protocol on stdin and stdout.

    The assistant starts this command by itself. It ends when its stdin ends. Needs the extra mcp.
    """
    with exit_codes(debug=debug):
        # stdout is the protocol's. What a library prints goes to stderr; the server does that itself once it runs.
        with contextlib.redirect_stdout(sys.stderr):
            with importing():
                from soloist.integrations.mcp import search_server
                from soloist.retrieval import open_run

            by, chosen = chosen_by(rankers, numbers_by_name(weights)), split("--collection", collection) or ()
            server = search_server(open_run(run_dir, catalogue=catalogue), k=k, by=by, collections=chosen)
        server.run()
