"""The command line in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner, Result

from soloist.cli import app


def invoke(*arguments: object, **options: Any) -> Result:
    """Run the command line with these arguments; `input` is its stdin."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
