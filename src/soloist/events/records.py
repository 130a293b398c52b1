"""Events as JSON-ready values and back, as `events.jsonl` and a worker process hand them on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from soloist.events.kinds import Event


def event_from_dict(record: Mapping[str, Any]) -> Event:
    """The event that `event_to_dict` wrote, without its time.

    Raises:
        ValueError: this version has no event of that name.
    """
    kinds = {kind.__name__: kind for kind in Event.__subclasses__()}
    kind = kinds.get(record.get("event", ""))
    if kind is None:
        raise ValueError(f"{record.get('event')!r} is not an event of this version")
    return _read(kind, record)  # type: ignore[no-any-return]


def _read(kind: Any, value: Any) -> Any:
    """A JSON value as the annotated type: a dataclass, a tuple or a mapping; else the value itself."""
    is_record: bool = dataclasses.is_dataclass(kind)
    if is_record:
        hints = _hints(kind)
        names = [field.name for field in dataclasses.fields(kind) if field.name in value]
        return kind(**{name: _read(hints[name], value[name]) for name in names})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return tuple(_read(inner[0], item) for item in value)
    if origin is Mapping:
        return {key: _read(inner[1], item) for key, item in value.items()}
    if origin is UnionType and value is not None:
        return _read(next(member for member in inner if member is not NoneType), value)
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a class's fields, which take long to find."""
    return get_type_hints(kind)


def event_to_dict(event: Event, time: float) -> dict[str, Any]:
    """The event as JSON-ready values, its class name under `event`."""
    return {"time": time, "event": type(event).__name__, **dataclasses.asdict(event)}
