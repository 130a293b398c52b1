"""Whether what a worker raised is the fault of its node, so that others go on without it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soloist.errors import DeviceNotEmptyError, EncodingError, LeaseError, OutputError
from soloist.told_errors import is_on_purpose

# What a device raises is an EncodingError as such.
_OF_A_DEVICE = {kind.__name__ for kind in (EncodingError, LeaseError, DeviceNotEmptyError)}


class Failures:
    """The failures of the workers of a pass."""

    def __init__(self) -> None:
        self._without_files: set[str] = set()

    def computed(self) -> None:
        """Take note that a worker has computed a shard: the folder takes files."""
        self._without_files.clear()

    def is_of_the_node(self, said: Mapping[str, Any], node: str, *, has_others: bool) -> bool:
        """Whether other nodes may do what this one could not. `has_others` says whether there are any.

        A file that cannot be read or written is the fault of the node, e.g. of its mount, until another node has the
        same fault before any shard was computed: then the disk is full, or away.
        """
        if said["kind"] != OutputError.__name__:
            return not is_on_purpose(said) or said["kind"] in _OF_A_DEVICE
        self._without_files.add(node)
        return has_others and len(self._without_files) == 1
