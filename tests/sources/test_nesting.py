"""How deep a JSON file nests is a property of the file, not of who reads it."""

from __future__ import annotations

import json

import pytest

from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.json_files import read_json, read_json_lines
from soloist.sources.nesting import MAX_LEVELS, is_too_deep


def at_depth(calls, read):
    """Call `read` from a stack that is so many calls deeper."""
    return read() if not calls else at_depth(calls - 1, read)


def outcome(read):
    """The items that were read, a fault as its words."""
    items = []
    try:
        for item in read():
            items.append(item.fault if isinstance(item, BadItem) else item)
    except UnreadableFileError as exc:
        items.append(str(exc))
    return json.dumps(items) if len(items) < 3 else str(len(items))


@pytest.mark.parametrize("levels", [MAX_LEVELS - 2, MAX_LEVELS + 1, 700, 850, 900, 950, 990, 1100])
@pytest.mark.parametrize("end", ["whole", "cut"])
@pytest.mark.parametrize("reader", [read_json, read_json_lines])
def test_the_stack_of_the_caller_decides_nothing(tmp_path, reader, end, levels):
    """A file was read by Python's caller and refused in the command, whose stack is deeper."""
    file = tmp_path / "a"
    nested = "[" * levels + ("]" * levels if end == "whole" else "")
    head = "[" if reader is read_json else ""
    file.write_text(f"{head}{nested}{']' if reader is read_json and end == 'whole' else ''}")
    found = {at_depth(calls, lambda: outcome(lambda: reader(file))) for calls in (0, 100, 300)}
    assert len(found) == 1
    assert ("is nested too deeply" in found.pop()) == (levels > MAX_LEVELS)


def test_brackets_in_strings_and_side_by_side_are_no_levels():
    """A text about brackets would be refused."""
    text = json.dumps(["[{" * MAX_LEVELS, '"\\' * MAX_LEVELS, "[" * MAX_LEVELS, *([] for _ in range(2 * MAX_LEVELS))])
    assert not is_too_deep(text, 0, len(text))
    assert is_too_deep("[" * (MAX_LEVELS + 1), 0, MAX_LEVELS + 1)
