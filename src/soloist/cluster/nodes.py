"""The nodes of a cluster, from Ray's records. Pure: records in, nodes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.cluster.local_nodes import FOLDER_LABEL, NAME_LABEL, THREADS_LABEL, lock_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that can work.

    Attributes:
        id: Ray's own; a node that comes back has another one.
        name: unique among the living.
        host: the name of its machine.
        lock_dir: the node's own lock folder, of a node of local:N without GPUs; None is the run's setting.
        threads: what a node of local:N may use on the CPU; None is all.
    """

    id: str
    name: str
    host: str
    cpus: int
    gpus: int
    lock_dir: Path | None = None
    threads: int | None = None


class NodeNames:
    """Gives each node a name, and the same one as long as it lives.

    Where any node has ever had a GPU, the nodes without one do not work: they would be the slowest by far.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._with_gpus = False

    def nodes(self, records: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
        """The nodes of Ray's records that can work, by name."""
        able = [record for record in records if _count(record, "CPU") or _count(record, "GPU")]
        self._with_gpus = self._with_gpus or any(_count(record, "GPU") for record in able)
        if self._with_gpus:
            able = [record for record in able if _count(record, "GPU")]
        living = {record["NodeID"] for record in able}
        self._names = {node: name for node, name in self._names.items() if node in living}
        for record in sorted(able, key=lambda record: str(record["NodeID"])):
            if record["NodeID"] not in self._names:
                self._names[record["NodeID"]] = self._free_name(_wish(record))
        return tuple(sorted((self._node(record) for record in able), key=_natural))

    def _free_name(self, wish: str) -> str:
        taken = set(self._names.values())
        number, name = 1, wish
        while name in taken:
            number += 1
            name = f"{wish}-{number}"
        return name

    def _node(self, record: Mapping[str, Any]) -> Node:
        labels = record.get("Labels") or {}
        # GPUs are shared out, and other commands of the machine may want them: their locks are the machine's.
        has_own_locks = FOLDER_LABEL in labels and not _count(record, "GPU")
        return Node(
            id=record["NodeID"],
            name=self._names[record["NodeID"]],
            host=record["NodeManagerHostname"],
            cpus=_count(record, "CPU"),
            gpus=_count(record, "GPU"),
            lock_dir=lock_folder(labels[FOLDER_LABEL], labels[NAME_LABEL]) if has_own_locks else None,
            threads=int(labels[THREADS_LABEL]) if THREADS_LABEL in labels and not _count(record, "GPU") else None,
        )


def _wish(record: Mapping[str, Any]) -> str:
    labels = record.get("Labels") or {}
    return str(labels.get(NAME_LABEL) or record["NodeManagerHostname"])


def _count(record: Mapping[str, Any], resource: str) -> int:
    return int((record.get("Resources") or {}).get(resource, 0))


def _natural(node: Node) -> tuple[str | int, ...]:
    """node-10 comes after node-9."""
    parts = re.split(r"([0-9]+)", node.name)  # text and numbers in turn, text first
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts))
