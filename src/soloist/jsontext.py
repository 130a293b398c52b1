"""JSON for the files of a run: UTF-8, strict (no NaN), with readable non-ASCII text. Pure."""

from __future__ import annotations

import json
from typing import Any

# Made once: `json.dumps` makes an encoder a call, which costs more than a small value does.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""The value as JSON text that always encodes to UTF-8.

    UTF-8 cannot hold a lone surrogate, which occurs in names of files that are not valid UTF-8. It is written as its
    JSON escape, e.g. `\udcff`, and reads back unchanged.

    Raises:
        TypeError: JSON has no such value.
        ValueError: the value has NaN or infinity, which other readers refuse.
    """
    if indent is None:
        text = _ENCODER.encode(value)
    else:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    # For a surrogate, backslashreplace writes the same escape as JSON.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
