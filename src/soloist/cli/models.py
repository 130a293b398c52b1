"""`soloist models`: the rows of the catalogue. Loads no model."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from soloist.cli.outcome import exit_codes, written_to_stdout
from soloist.cli.plain_help import PlainCommand, PlainGroup
from soloist.jsontext import json_text
from soloist.models.catalogue import resolve
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue
from soloist.reports.text import one_line

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show the models that soloist knows by name.",
)

_CataloguePath = Annotated[
    Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="A TOML file with models of your own.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

_COLUMNS = ("model", "dim", "max tokens", "licence", "source")

# What the name says already, and a setting of a run.
_NOT_SHOWN = ("head", "sparse_top")


@app.command("list", cls=PlainCommand)
def list_models(catalogue: _CataloguePath = None, as_json: _Json = False, debug: _Debug = False) -> None:
    """List the catalogue. A dash means that only the loaded model knows the value."""
    from soloist.reports.table import open_console, print_table

    with exit_codes(debug=debug):
        specs = load_catalogue(catalogue).specs
        with written_to_stdout("the list"):
            if as_json:
                typer.echo(json_text([dataclasses.asdict(spec) for spec in specs], indent=2))
                return
            print_table(open_console(sys.stdout), _COLUMNS, [_row(spec) for spec in specs])


@app.command("show", cls=PlainCommand)
def show_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A catalogue name, a folder or a hub id.")],
    catalogue: _CataloguePath = None,
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """Show what soloist knows of a model before it is loaded.

    A dash means that the model's own files decide. The word none means that a prompt is empty.
    """
    with exit_codes(debug=debug):
        spec = resolve(name, load_catalogue(catalogue))
        with written_to_stdout("the model"):
            if as_json:
                typer.echo(json_text(dataclasses.asdict(spec), indent=2))
                return
            for field in (item.name for item in dataclasses.fields(spec) if item.name not in _NOT_SHOWN):
                value = getattr(spec, field)
                shown = _prompt(value) if field.endswith("_prompt") else _text(value)
                typer.echo(f"{field:<18} {one_line(shown)}")


def _row(spec: ModelSpec) -> list[str]:
    source = spec.source if spec.kind == "dense" else f"{spec.kind}: {spec.source}"
    return [spec.name, _text(spec.dim), _text(spec.max_tokens), _text(spec.licence), source]


def _prompt(value: str | None) -> str:
    """A prompt in quotes, which show the spaces and line breaks at its ends."""
    return json.dumps(value, ensure_ascii=False) if value else "-" if value is None else "none"


def _text(value: object) -> str:
    if value is None or value in ((), ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
