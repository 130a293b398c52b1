"""JSON files that are written once and whole, and read back with a sentence where they are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from soloist.errors import OutputError
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors

Used = TypeVar("Used")


def write_json_file(path: Path, value: Any) -> None:
    """Write a value.

    Raises:
        ValueError: NaN or infinity in the value.
        TypeError: a value that JSON does not have.
        OutputError: the disk does not take the file.
    """
    text = json_text(value, indent=2)
    with atomic_path(path) as temp, disk_errors(path):
        temp.write_text(text + "\n", encoding="utf-8", newline="\n")


def read_json_file(path: Path, use: Callable[[Any], Used]) -> Used:
    """What `use` makes of the value of a file.

    Raises:
        OutputError: the file cannot be read, or its value is another than `use` takes.
    """
    try:
        return use(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
        if isinstance(exc, (OSError, json.JSONDecodeError)):
            reason = f"cannot be read ({exc.strerror if isinstance(exc, OSError) else exc})"
        else:
            reason = f"does not hold what a run writes there ({type(exc).__name__}: {exc})"
        raise OutputError(
            f"{path} {reason}: run the soloist embed command of this run again, which writes the file again"
        ) from exc
