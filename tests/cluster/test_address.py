"""What names a cluster: what is taken, and the sentence for what is not."""

from __future__ import annotations

import pytest

from soloist.cluster.address import ClusterAddress
from soloist.errors import ConfigError


def test_auto_is_the_cluster_of_this_machine() -> None:
    """It would be taken for the name of a machine."""
    assert ClusterAddress.parse("auto") == ClusterAddress(kind="auto")


@pytest.mark.parametrize("text", ["10.0.0.7:6379", "head.example.org:6379", "[::1]:6379", "localhost:1"])
def test_a_cluster_that_is_there_is_taken_as_it_is_named(text: str) -> None:
    """A good address would be refused, or nodes would be started where some are."""
    assert ClusterAddress.parse(text) == ClusterAddress(kind="joined", host_port=text)


def test_nodes_of_this_machine_are_counted() -> None:
    """Another number of nodes would be started than was asked for."""
    assert ClusterAddress.parse("local:12") == ClusterAddress(kind="local", nodes=12)


@pytest.mark.parametrize("text", ["auto", "10.0.0.7:6379", "local:3"])
def test_an_address_is_written_as_it_was_given(text: str) -> None:
    """A message or run.json would name another cluster."""
    assert str(ClusterAddress.parse(text)) == text


@pytest.mark.parametrize("text", ["local:0", "local:-1", "local:two", "local:", "local:²", "local:1.5"])
def test_a_number_of_nodes_that_cannot_be_is_refused(text: str) -> None:
    """Python's own error would be shown, or a cluster without nodes would wait for ever."""
    with pytest.raises(ConfigError, match=r"but N of local:N must be 1 or more: give local:2 for two nodes"):
        ClusterAddress.parse(text)


@pytest.mark.parametrize("text", ["", "head", "head:port", "a b:1", "http://head:6379", "::1:6379", "AUTO", "local"])
def test_what_is_not_an_address_is_refused_with_the_choices(text: str) -> None:
    """Ray would look for a machine of that name for a minute."""
    with pytest.raises(ConfigError, match=r"is not an address: give auto, HOST:PORT or local:N"):
        ClusterAddress.parse(text)


@pytest.mark.parametrize("text", ["head:0", "head:65536", "head:٣"])
def test_a_port_that_cannot_be_is_refused(text: str) -> None:
    """Ray would wait for it."""
    with pytest.raises(ConfigError, match=r"give auto, HOST:PORT or local:N"):
        ClusterAddress.parse(text)


def test_the_address_of_a_ray_client_is_refused_with_the_way_on() -> None:
    """The command would run where the run folder of the cluster is not."""
    with pytest.raises(ConfigError, match=r"run soloist on a node of the cluster, and give auto"):
        ClusterAddress.parse("ray://head:10001")
