"""Which files below a root are no chunk files, and why: counts, and the first of each kind by name. Pure.

What is kept is bounded: `_NAMED` files and `_ENDINGS` endings a reason, however many files there are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, get_args

from soloist.formats import known_format, uncompressed_name
from soloist.sources.faults import shortened
from soloist.wording import count_text

Reason = Literal[
    "no pattern takes it",
    "no column of texts",
    "packed in a way that is not read",
    "no format with this ending is read",
    "its name has no ending",
    "not a plain file",
    "questions",
    "a marker of another tool",
]
# In the order in which they are told: what looks most like chunks first.
_ORDER: tuple[Reason, ...] = get_args(Reason)
_UNTOLD: tuple[Reason, ...] = ("a marker of another tool",)
_PACKED = (".xz", ".zip", ".lz4", ".7z", ".tar", ".tgz", ".rar", ".lzma", ".br", ".sz", ".snappy", ".z")
_MARKERS = ("_success", "_metadata", "_common_metadata", "_committed_", "_started_")
_NAMED = 25
_ENDINGS = 20
_TOLD = 3
_PATH_CHARS = 120
OTHER_ENDINGS = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """A file that is no chunk file. `file` is relative to the root; `detail` goes on where the reason ends."""

    file: PurePath
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{shortened(str(self.file), _PATH_CHARS)} ({self.detail or self.reason})"


@dataclass(slots=True)
class PassedOverFiles:
    """Counts files by reason and ending, and keeps the first of each reason."""

    _counts: dict[Reason, Counter[str]] = field(default_factory=dict)
    _first: dict[Reason, list[PassedOver]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many files there are."""
        return sum(counts.total() for counts in self._counts.values())

    def add(self, item: PassedOver) -> None:
        """Take one more."""
        ending = PurePath(item.file.name.lower()).suffix or "none"
        self._count(item.reason, ending, 1)
        first = self._first.setdefault(item.reason, [])
        if len(first) < _NAMED:
            first.append(item)

    def add_all(self, others: PassedOverFiles) -> None:
        """Take those that were counted elsewhere."""
        for reason, counts in others._counts.items():
            for ending, count in counts.items():
                self._count(reason, ending, count)
            first = self._first.setdefault(reason, [])
            first += others._first[reason][: _NAMED - len(first)]

    def _count(self, reason: Reason, ending: str, count: int) -> None:
        counts = self._counts.setdefault(reason, Counter())
        counts[ending if ending in counts or len(counts) < _ENDINGS else OTHER_ENDINGS] += count

    def sentence(self) -> str:
        """How many there are, and the first few with the reason; empty where there is nothing to tell."""
        told = [item for reason in _ORDER if reason not in _UNTOLD for item in self._first.get(reason, ())]
        count = sum(counts.total() for reason, counts in self._counts.items() if reason not in _UNTOLD)
        if not count:
            return ""
        more = f" and {count - _TOLD:,} more" if count > _TOLD else ""
        verb = "is not a chunk file and was" if count == 1 else "are not chunk files and were"
        return f"{count_text(count, 'file')} {verb} passed over: {', '.join(map(str, told[:_TOLD]))}{more}"

    def notice(self) -> str:
        """The sentence with what to do about it."""
        sentence = self.sentence()
        return f"{sentence}; --file-patterns takes others" if sentence and _ORDER[0] in self._counts else sentence

    def to_dict(self) -> dict[str, Any]:
        """As run.json has it: the number of files, the numbers by reason and ending, and the first of each reason."""
        return {
            "files": self.count,
            "by_reason": {reason: dict(self._counts[reason]) for reason in _ORDER if reason in self._counts},
            "first": [
                {"file": item.file.as_posix(), "reason": item.reason, "detail": item.detail}
                for reason in _ORDER
                for item in self._first.get(reason, ())
            ],
        }


def reason_of(name: str) -> Reason:
    """Why no chunk file has this name, where no pattern takes it."""
    ending = PurePath(name.lower()).suffix
    plain = known_format(name)
    if name.lower().startswith(_MARKERS) and plain is None:
        return "a marker of another tool"
    if ending in _PACKED or (plain is not None and not plain.is_text and uncompressed_name(name) != name.lower()):
        return "packed in a way that is not read"
    if plain is not None:
        return "no pattern takes it"
    return "no format with this ending is read" if ending else "its name has no ending"
