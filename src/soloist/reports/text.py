"""Text for a terminal or a log. Pure: values in, one line out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from soloist.wording import count_text

_MOST_NAMES = 4  # of devices in one line


def one_line(text: str) -> str:
    """The text on one line, with control characters as escapes: a name must not move the cursor."""
    joined = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return printable(joined)


def printable(text: str) -> str:
    """The text with control characters as escapes, line breaks too."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def bytes_text(count: int) -> str:
    """A number of bytes in units of a thousand, e.g. `15.83 GB`, `90.9 MB`, `0 B`."""
    for size, unit, digits in ((10**9, "GB", 2), (10**6, "MB", 1), (10**3, "kB", 1)):
        if count >= size:
            return f"{count / size:.{digits}f} {unit}"
    return f"{count} B"


def compact_text(count: int) -> str:
    """A number in full below a million, in millions above, e.g. `107,129`, `98.8M`."""
    return f"{count:,}" if count < 10**6 else f"{count / 10**6:,.1f}M"


def devices_text(devices: Sequence[str]) -> str:
    """The names of a few devices, else how many there are. A device of a node is `NODE/DEVICE`.

    >>> devices_text(["node-1/cpu", "node-2/cpu"])
    '2 nodes'
    """
    nodes = {node for node, slash, _ in (device.rpartition("/") for device in devices) if slash}
    if len(nodes) > 1:
        count = count_text(len(nodes), "node")
        return count if len(devices) == len(nodes) else f"{count_text(len(devices), 'device')} of {count}"
    return ", ".join(devices) if len(devices) <= _MOST_NAMES else count_text(len(devices), "device")


def natural_order(name: str) -> tuple[str | int, ...]:
    """The key that sorts names as a reader does: `node-9/cuda:10`, then `node-10/cuda:2`."""
    parts = re.split(r"([0-9]+)", name)  # text and numbers in turn, text first
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts))


def clock_text(seconds: float) -> str:
    """A duration as a clock shows it, e.g. `0:09`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_of_day(now: float, seconds: float) -> str:
    """The local time in so many seconds: `14:32`, or `2026-03-01 00:10` on another day. `now` is seconds since 1970."""
    today, end = datetime.fromtimestamp(now).date(), datetime.fromtimestamp(now + seconds)
    return f"{end:%H:%M}" if end.date() == today else f"{end:%Y-%m-%d %H:%M}"
