"""JSON as every file of a run holds it: UTF-8, strict (no NaN), non-ASCII text readable. Pure."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""The value as JSON text that always encodes to UTF-8.

    A lone surrogate, which UTF-8 cannot hold and which stands in the names of files that are not valid
    UTF-8, is written as its JSON escape, e.g. `\udcff`, and reads back as it was.

    Raises:
        TypeError: a value that JSON does not have.
        ValueError: NaN or infinity, which other readers refuse.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    # The escape that backslashreplace writes for a surrogate is the one that JSON has.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
