"""Help is whole at any width, and says in words what an option takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from support.invoking import invoke

from soloist.cli import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words that call each command and each group of commands."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = list(commands(typer.main.get_command(app)))


def command_at(path: tuple[str, ...]) -> Any:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    return command


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "soloist")
def test_help_wraps_and_is_whole(path, columns):
    """A narrow terminal got `Embed the chunks in CHUNKS_ROOT into the...`, and option names on two lines."""
    text = invoke(*path, "--help", terminal_width=columns).stdout
    assert max(map(len, text.splitlines())) <= columns
    said = " ".join(text.split())
    command = command_at(path)
    for part in [*(command.help or "").split("\n\n"), *(option.help or "" for option in command.params)]:
        assert " ".join(part.split()) in said
    for name, inner in getattr(command, "commands", {}).items():
        first, *_ = re.split(r"(?<=\.)\s", " ".join(inner.help.split()))
        assert f"{name} {first}" in said


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "soloist")
def test_what_an_option_takes_is_said_in_words(path):
    """`soloist search -h` asked for a {RUN_DIR}, a `<int range>` and a `[x>=1]`."""
    text = invoke(*path, "--help").stdout
    assert not re.search(r"[{}<>]|\[\[|None", text)
    assert re.findall("RUN_DIR|CHUNKS_ROOT", text) == []
    least = [option for option in command_at(path).params if getattr(option, "min", None) is not None]
    for option in least:
        assert f"at least {option.min}" in option.help


def test_an_argument_that_may_be_left_out_is_in_brackets():
    """`[[CHUNKS_ROOT]]` had two pairs, and an argument that is needed had braces."""
    assert "Usage: soloist status [OPTIONS] RUN [CHUNKS]\n" in invoke("status", "--help").stdout
    failed = invoke("search")
    assert "Usage: soloist search [OPTIONS] RUN QUESTION\n" in failed.stderr
    assert "'RUN'" in failed.stderr
