"""The nodes of a cluster: which of them work, what they are called, and how a machine is shared out among its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soloist.cluster.local_nodes import Share, share_out, visible_gpus
from soloist.cluster.nodes import Node, NodeNames
from soloist.errors import ConfigError


def record(id_: str, host: str, cpus: float = 0, gpus: float = 0, **labels: str) -> dict[str, Any]:
    """A node as Ray tells it."""
    resources = {"CPU": cpus, "GPU": gpus, "memory": 1e9}
    return {
        "NodeID": id_, "NodeManagerHostname": host, "Labels": labels,
        "Resources": {name: amount for name, amount in resources.items() if amount},
    }  # fmt: skip


def test_nodes_have_the_names_of_their_machines() -> None:
    """Two nodes of one machine would have one name, and the lease events of one would stand under the other."""
    nodes = NodeNames().nodes([record("b", "gpu-2", 8), record("a", "gpu-1", 8), record("c", "gpu-1", 4)])
    assert [(node.name, node.id, node.cpus) for node in nodes] == [
        ("gpu-1", "a", 8), ("gpu-1-2", "c", 4), ("gpu-2", "b", 8),
    ]  # fmt: skip


def test_a_name_stays_while_its_node_lives_and_is_free_afterwards() -> None:
    """Events of one node would stand under two names, or a machine that comes back would have a new one each time."""
    names = NodeNames()
    first, second = record("b", "gpu", 8), record("a", "gpu", 8)
    assert [node.name for node in names.nodes([first])] == ["gpu"]
    assert {node.id: node.name for node in names.nodes([first, second])} == {"b": "gpu", "a": "gpu-2"}
    assert {node.id: node.name for node in names.nodes([second])} == {"a": "gpu-2"}
    assert {node.id: node.name for node in names.nodes([second, record("c", "gpu", 8)])} == {"a": "gpu-2", "c": "gpu"}


def test_a_head_that_does_no_work_is_not_a_node() -> None:
    """A worker would be started on the head of the cluster, beside what holds all the others together."""
    assert NodeNames().nodes([record("h", "head")]) == ()


def test_nodes_without_a_gpu_do_not_work_beside_nodes_with_one() -> None:
    """The slowest machine would hold up all others. It would also begin to work when the last GPU is lost."""
    names = NodeNames()
    with_gpu, without = record("a", "gpu-1", 8, 4), record("b", "cpu-1", 64)
    assert [(node.name, node.gpus) for node in names.nodes([with_gpu, without])] == [("gpu-1", 4)]
    assert names.nodes([without]) == ()


def test_a_node_of_this_machine_brings_its_name_locks_and_threads() -> None:
    """Nodes of one machine would wait for each other's devices, or each would take all processors."""
    labels = {"soloist-node": "node-2", "soloist-folder": "soloist-0a1b2c3d", "soloist-threads": "3"}
    (node,) = NodeNames().nodes([record("x", "laptop", 3, **labels)])
    assert node == Node(
        id="x", name="node-2", host="laptop", cpus=3, gpus=0, threads=3,
        lock_dir=Path("/tmp/soloist-0a1b2c3d/node-2-locks"),
    )  # fmt: skip


def test_a_node_with_gpus_has_the_locks_of_its_machine() -> None:
    """Another command of this machine would compute on the same GPUs at the same time."""
    labels = {"soloist-node": "node-1", "soloist-folder": "soloist-0a1b2c3d", "soloist-threads": "3"}
    (node,) = NodeNames().nodes([record("x", "laptop", 3, 2, **labels)])
    assert (node.gpus, node.lock_dir, node.threads) == (2, None, None)


def test_nodes_are_in_the_order_of_their_numbers() -> None:
    """node-10 would stand before node-2 in every report."""
    labels = [{"soloist-node": f"node-{number}"} for number in (10, 2, 1)]
    nodes = NodeNames().nodes([record(str(index), "laptop", 1, **names) for index, names in enumerate(labels)])
    assert [node.name for node in nodes] == ["node-1", "node-2", "node-10"]


@pytest.mark.parametrize(
    ("nodes", "cores", "gpus", "shares"),
    [
        (2, 8, "", [(4, ""), (4, "")]),
        (3, 2, "", [(1, ""), (1, ""), (1, "")]),
        (3, 7, "0123", [(2, "01"), (2, "2"), (2, "3")]),
        (2, 16, "37", [(8, "3"), (8, "7")]),
    ],
)
def test_a_machine_is_shared_out(nodes: int, cores: int, gpus: str, shares: list[tuple[int, str]]) -> None:
    """Two nodes would take one GPU, one would be left over, or a node would have no thread."""
    assert share_out(nodes, cores, tuple(gpus)) == [Share(threads=threads, gpus=tuple(own)) for threads, own in shares]


def test_fewer_gpus_than_nodes_are_refused_with_the_way_on() -> None:
    """A node without a GPU would compute on the CPU, beside others with one."""
    with pytest.raises(ConfigError, match=r"local:3 needs a GPU for each node, and there is 1 GPU: give local:1, or "):
        share_out(3, 8, ("0",))


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [(None, ("0", "1")), ("1", ("1",)), ("GPU-a, GPU-b", ("GPU-a", "GPU-b")), ("", ()), ("-1", ()), ("none", ())],
)
def test_the_gpus_are_those_that_this_process_may_use(
    chosen: str | None, gpus: tuple[str, ...], tmp_path: Path
) -> None:
    """A GPU that belongs to another job would be shared out, or none where there are some."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}, tmp_path) == gpus
