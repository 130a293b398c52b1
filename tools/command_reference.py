"""The reference of the command line, from the parser itself: Markdown in the order of the help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from soloist.cli import app
from soloist.cli.plain_help import paragraphs, parameter_rows


def command_reference() -> str:
    """A section for each command: its usage, what it does, and a table of its arguments and options."""
    root = typer.main.get_command(app)
    return "\n".join(line for path, command in _leaves(root, "soloist") for line in _section(path, command))


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The commands that do something, in the order of the help."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield path, command
        return
    for name, subcommand in subcommands.items():
        yield from _leaves(subcommand, f"{path} {name}")


def _section(path: str, command: Any) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True, **(app.info.context_settings or {}))
    yield from (f"## {path}", "", "```text", " ".join([path, *command.collect_usage_pieces(context)]), "```", "")
    yield from (f"{paragraph}\n" for paragraph in paragraphs(command))
    yield from ("| argument or option | what it means |", "|---|---|")
    for names, meaning in (row for kind in ("argument", "option") for row in parameter_rows(command, context, kind)):
        yield f"| `{_cell(names)}` | {_cell(_plain(meaning))} |"
    yield ""


def _plain(text: str) -> str:
    """With no mark of Markdown in it."""
    return text.replace("<", "&lt;").replace("*", r"\*")


def _cell(text: str) -> str:
    """A bar would end the cell, also within code."""
    return text.replace("|", r"\|")
