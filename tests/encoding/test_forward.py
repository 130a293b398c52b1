"""How the host learns that a device is done with a batch."""

from __future__ import annotations

import pytest
import torch

from soloist.encoding import forward


def test_the_event_behind_a_copy_is_of_the_device_that_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a second GPU the host would read vectors that are not there yet: a thread's present device is the first."""
    streams = []

    class Event:
        """Notes where it is recorded."""

        def __init__(self, *, blocking: bool) -> None:
            assert blocking, "a host that waits would take a core"

        def record(self, stream: str | None = None) -> None:
            streams.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    forward._event_behind(torch.device("cuda:1"))
    assert streams == ["the stream of cuda:1"]
