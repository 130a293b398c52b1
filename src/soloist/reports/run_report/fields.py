"""Values of JSON that may be wrong: an event of another version, a file that was edited or is damaged.

A value of a wrong kind counts as absent. Pure: values in, values out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A larger number cannot be a count, a size or a time of a run, and sums of such numbers overflow.
_LARGEST = 1e18


@dataclass(frozen=True, slots=True)
class Fields:
    """The values of a JSON object, by their names."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> Fields:
        """The values of an object; none for any other value."""
        return cls(value if isinstance(value, dict) else {})

    def number(self, name: str) -> float | None:
        """A finite number."""
        return _number(self.values.get(name))

    def amount(self, name: str) -> float:
        """A number that is not negative, else 0."""
        return max(0.0, self.number(name) or 0.0)

    def count(self, name: str) -> int:
        """A whole number that is not negative, else 0."""
        return int(self.amount(name))

    def text(self, name: str) -> str | None:
        """A string that is not empty."""
        value = self.values.get(name)
        return value if isinstance(value, str) and value else None

    def texts(self, name: str) -> tuple[str, ...]:
        """The strings of a list."""
        return tuple(value for value in self._items(name) if isinstance(value, str))

    def counts(self, name: str) -> tuple[int, ...]:
        """The numbers of a list, as whole ones."""
        return tuple(int(number) for value in self._items(name) if (number := _number(value)) is not None)

    def numbers(self, name: str) -> dict[str, float]:
        """The numbers of an object, by their names."""
        found = ((key, _number(value)) for key, value in self.part(name).values.items())
        return {key: number for key, number in found if number is not None}

    def part(self, name: str) -> Fields:
        """An object within this one."""
        return Fields.of(self.values.get(name))

    def parts(self, name: str) -> list[Fields]:
        """The objects of a list."""
        return [Fields(value) for value in self._items(name) if isinstance(value, dict)]

    def parts_by_name(self, name: str) -> dict[str, Fields]:
        """The objects of an object, by their names."""
        return {key: Fields(value) for key, value in self.part(name).values.items() if isinstance(value, dict)}

    def _items(self, name: str) -> list[Any]:
        value = self.values.get(name)
        return value if isinstance(value, list) else []


def lines_of(path: Path) -> Iterator[Fields | None]:
    """The objects of a file of JSON lines; None for each line that is not one."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip():
                yield _object(line)


def _object(line: str) -> Fields | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return Fields(value) if isinstance(value, dict) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= _LARGEST else None  # rejects NaN and larger integers
