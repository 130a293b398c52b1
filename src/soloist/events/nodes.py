"""Events of another machine, with its name before those of its devices: `node-1/cuda:0`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from soloist.events.kinds import Event

_OF_ONE = ("device",)
_OF_SEVERAL = ("devices",)
_BY_DEVICE = ("memory", "worker_memory", "peak_bytes", "allocated_bytes", "rows_per_device")


def on_node(event: Event, node: str) -> Event:
    """The event with the node's name before the name of each device. An event without devices stays as it is."""
    named: dict[str, Any] = {}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.name in _OF_ONE and value:
            named[field.name] = device_on(node, value)
        elif field.name in _OF_SEVERAL:
            named[field.name] = tuple(device_on(node, device) for device in value)
        elif field.name in _BY_DEVICE and isinstance(value, Mapping):
            named[field.name] = {device_on(node, device): of for device, of in value.items()}
        elif field.name == "held":
            named[field.name] = tuple(dataclasses.replace(item, device=device_on(node, item.device)) for item in value)
    return dataclasses.replace(event, **named)


def device_on(node: str, device: str) -> str:
    """The name of a node's device.

    >>> device_on("node-1", "cuda:0")
    'node-1/cuda:0'
    """
    return f"{node}/{device}"
