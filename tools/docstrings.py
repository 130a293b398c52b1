"""The docstrings of soloist as Sphinx reads them: code in double backquotes, examples as literal blocks. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")
_SECTION = re.compile(r"^(Attributes|Raises|Returns|Args|Yields):$")


def as_restructured_text(lines: Sequence[str]) -> list[str]:
    """The lines with `code` as ``code``, and with `::` before an indented block that belongs to no section."""
    made: list[str] = []
    in_section = in_example = False
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            in_section, in_example = _SECTION.match(line) is not None, False
        if indented and not in_section and not in_example:
            made += ["::", ""]
            in_example = True
        made.append(line if in_example else _CODE.sub(r"``\1``", line))
    return made
