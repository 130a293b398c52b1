"""Help as plain text. It wraps at any width and cuts nothing, and what an option takes is said in words.

Knows what a parameter says of itself, and no command of soloist. The page of the command line is made of the same rows.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

Row = tuple[str, str]  # a name, and what it means


class PlainCommand(TyperCommand):
    """A command with such help. Typer's classes are private but for these, so their objects are of no type here."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS]`, and the arguments; one that may be left out is in brackets."""
        names = ((_name(parameter), parameter.required) for parameter in _of_kind(self, ctx, "argument"))
        return ["[OPTIONS]", *(name if is_required else f"[{name}]" for name, is_required in names)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_text(self, ctx, formatter.width))


class PlainGroup(TyperGroup):
    """A group of commands with such help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_text(self, ctx, formatter.width))


def help_text(command: Any, context: Any, width: int) -> str:
    """Usage, what the command does, and a table each of arguments, options and commands, where there are some."""
    usage = " ".join(["Usage:", context.command_path, *command.collect_usage_pieces(context)])
    sections = [_wrapped(usage, width, "", " " * len("Usage: "))]
    sections += [_wrapped(paragraph, width, "  ", "  ") for paragraph in paragraphs(command)]
    tables = {
        "Arguments": parameter_rows(command, context, "argument"),
        "Options": parameter_rows(command, context, "option"),
        "Commands": [(name, summary(inner)) for name, inner in getattr(command, "commands", {}).items()],
    }
    sections += ["\n".join([f"{title}:", *_table(rows, width)]) for title, rows in tables.items() if rows]
    return "\n\n".join(sections) + "\n"


def paragraphs(command: Any) -> list[str]:
    """What a command does, each paragraph on one line."""
    return [" ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n") if paragraph.strip()]


def summary(command: Any) -> str:
    """The first sentence of what a command does."""
    first, *_ = [*paragraphs(command), ""]
    return re.split(r"(?<=\.) ", first)[0]


def parameter_rows(command: Any, context: Any, kind: str) -> list[Row]:
    """The arguments or the options of a command, in the order of the help."""
    return [(_name(parameter), _meaning(parameter)) for parameter in _of_kind(command, context, kind)]


def _of_kind(command: Any, context: Any, kind: str) -> list[Any]:
    parameters = command.get_params(context)
    return [parameter for parameter in parameters if parameter.param_type_name == kind and not parameter.hidden]


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    spellings = (sorted(names, key=_short_first) for names in (parameter.opts, parameter.secondary_opts) if names)
    return " / ".join(", ".join(names) for names in spellings) + value


def _short_first(name: str) -> tuple[bool, str]:
    return name.startswith("--"), name


def _meaning(parameter: Any) -> str:
    default = parameter.default
    if default is True:
        default = parameter.opts[0].lstrip("-")
    notes = (
        None if default in (None, False, ()) else f"[default: {default}]",
        f"[env var: {parameter.envvar}]" if parameter.envvar else None,
        "[required]" if parameter.required else None,
    )
    return " ".join([*(parameter.help or "").split(), *filter(None, notes)])


def _table(rows: Sequence[Row], width: int) -> Iterator[str]:
    """Names on the left, meanings on the right. A name that is too long for its column has a line of its own."""
    column = min(max(len(name) for name, _ in rows), width * 3 // 8)
    indent = " " * (column + len("    "))
    for name, meaning in rows:
        begin = f"  {name:<{column}}  "
        if len(name) > column:
            yield begin.rstrip()
            begin = indent
        yield _wrapped(meaning, width, begin, indent)


def _wrapped(text: str, width: int, first: str, others: str) -> str:
    """Lines of whole words: a name with hyphens, such as that of an option, stays whole too."""
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False, break_long_words=False
    )
