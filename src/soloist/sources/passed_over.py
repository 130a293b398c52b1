"""The files below a root that are not chunk files, and why: counts, and the first files of each reason by name. Pure.

Memory is bounded however many files there are: at most `_NAMED` files and `_ENDINGS` endings a reason are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
# Messages follow this order: what looks most like chunks comes first.
_ORDER: tuple[Reason, ...] = get_args(Reason)
# What messages say instead of a reason. The reasons themselves are keys of run.json, and stay.
_TEXTS: Mapping[Reason, str] = {
    "no pattern takes it": "its name matches no pattern",
    "packed in a way that is not read": "its compression is not supported",
    "no format with this ending is read": "its file type is not supported",
}
_REMEDIES: Mapping[Reason, str] = {
    "no pattern takes it": "to read files with other names, give --file-patterns",
    "no column of texts": "to read texts from another column, give --text-field",
}
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
    """A file that is not a chunk file. `file` is relative to the root; `detail` says more than the reason does."""

    file: PurePath
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{shortened(str(self.file), _PATH_CHARS)} ({self.detail or _TEXTS.get(self.reason, self.reason)})"


@dataclass(slots=True)
class PassedOverFiles:
    """Counts files by reason and ending, and keeps the first files of each reason."""

    _counts: dict[Reason, Counter[str]] = field(default_factory=dict)
    _first: dict[Reason, list[PassedOver]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of files."""
        return sum(counts.total() for counts in self._counts.values())

    def add(self, item: PassedOver) -> None:
        """Add a file."""
        ending = PurePath(item.file.name.lower()).suffix or "none"
        self._count(item.reason, ending, 1)
        first = self._first.setdefault(item.reason, [])
        if len(first) < _NAMED:
            first.append(item)

    def add_all(self, others: PassedOverFiles) -> None:
        """Add the files of another count."""
        for reason, counts in others._counts.items():
            for ending, count in counts.items():
                self._count(reason, ending, count)
            first = self._first.setdefault(reason, [])
            first += others._first[reason][: _NAMED - len(first)]

    def _count(self, reason: Reason, ending: str, count: int) -> None:
        counts = self._counts.setdefault(reason, Counter())
        counts[ending if ending in counts or len(counts) < _ENDINGS else OTHER_ENDINGS] += count

    def sentence(self) -> str:
        """The number of files, and the first few with their reason; empty where there is nothing to tell."""
        told = [item for reason in _ORDER if reason not in _UNTOLD for item in self._first.get(reason, ())]
        count = sum(counts.total() for reason, counts in self._counts.items() if reason not in _UNTOLD)
        if not count:
            return ""
        more = f" and {count - _TOLD:,} more" if count > _TOLD else ""
        verb = "is not a chunk file and was" if count == 1 else "are not chunk files and were"
        return f"{count_text(count, 'file')} {verb} passed over: {', '.join(map(str, told[:_TOLD]))}{more}"

    def notice(self) -> str:
        """The sentence, and what to do about it."""
        return "; ".join(filter(None, (self.sentence(), *self.remedies())))

    def remedies(self, *, other_names: bool = False) -> list[str]:
        """What to do so that these files are read. `other_names` adds how to read files with other names."""
        always = ("no pattern takes it",) if other_names else ()
        return [remedy for reason, remedy in _REMEDIES.items() if reason in self._counts or reason in always]

    def to_dict(self) -> dict[str, Any]:
        """The entry of run.json: the number of files, the counts by reason and ending, and the first of each reason."""
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
    """Why a file with this name is not a chunk file, where no pattern matches the name."""
    ending = PurePath(name.lower()).suffix
    plain = known_format(name)
    if name.lower().startswith(_MARKERS) and plain is None:
        return "a marker of another tool"
    if ending in _PACKED or (plain is not None and not plain.is_text and uncompressed_name(name) != name.lower()):
        return "packed in a way that is not read"
    if plain is not None:
        return "no pattern takes it"
    return "no format with this ending is read" if ending else "its name has no ending"
