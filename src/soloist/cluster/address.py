"""What names a cluster: `auto`, `HOST:PORT` or `local:N`. Pure: a text in, an address out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from soloist.errors import ConfigError

_AUTO = "auto"
_LOCAL = re.compile(r"local:(.*)")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]+)", re.ASCII)
_CHOICES = "give auto, HOST:PORT or local:N"
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAddress:
    """Where a cluster is.

    Attributes:
        kind: `auto` is the cluster of this machine, `joined` is one that is named, `local` is started for the run.
        host_port: `HOST:PORT` of the kind joined, else empty.
        nodes: how many nodes the kind local starts, else 0.
    """

    kind: Literal["auto", "joined", "local"]
    host_port: str = ""
    nodes: int = 0

    @classmethod
    def parse(cls, text: str) -> ClusterAddress:
        """The address in a text.

        >>> ClusterAddress.parse("local:2").nodes
        2

        Raises:
            ConfigError: the text is none of the three.
        """
        if text == _AUTO:
            return cls(kind="auto")
        if local := _LOCAL.fullmatch(text):
            return cls(kind="local", nodes=_node_count(text, local[1]))
        _require_host_and_port(text)
        return cls(kind="joined", host_port=text)

    def __str__(self) -> str:
        if self.kind == "local":
            return f"local:{self.nodes}"
        return self.host_port or _AUTO


def _node_count(text: str, number: str) -> int:
    if not (number.isascii() and number.isdecimal()) or int(number) < 1:
        raise ConfigError(f"cluster is {text!r}, but N of local:N must be 1 or more: give local:2 for two nodes")
    return int(number)


def _require_host_and_port(text: str) -> None:
    if text.startswith("ray://"):
        raise ConfigError(
            f"cluster is {text!r}, the address of a Ray client, which sees no files of the cluster: run soloist on a "
            "node of the cluster, and give auto or HOST:PORT of its head"
        )
    joined = _HOST_AND_PORT.fullmatch(text)
    if joined is None:
        raise ConfigError(f"cluster is {text!r}, which is not an address: {_CHOICES}")
    if not 1 <= int(joined[2]) <= _LARGEST_PORT:
        raise ConfigError(f"cluster is {text!r}, and ports are 1 to {_LARGEST_PORT}: {_CHOICES}")
