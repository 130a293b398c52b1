"""The texts of which models make no vector, counted, and what an error or a notice says of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from soloist.errors import VectorlessTextsError
from soloist.sources import SkippedInputs
from soloist.sources.faults import shortened
from soloist.types import Place, SkippedInput, Vectorless
from soloist.wording import count_text

_NAMED = 3
# What is said of one text, and of several.
_WORDS: Mapping[Vectorless, tuple[str, str]] = {
    "no tokens": ("has no tokens", "have no tokens"),
    "token without a vector": ("has a token without a vector", "have tokens without a vector"),
    "zero vector": ("has a zero vector", "have a zero vector"),
    "NaN or infinity": ("has NaN or infinity in its vector", "have NaN or infinity in their vectors"),
}


class LeftOut:
    """Counts texts by model and reason, and keeps the first few by name, in memory that does not grow."""

    def __init__(self) -> None:
        self.skipped = SkippedInputs()
        self._counts: Counter[tuple[str, Vectorless]] = Counter()
        self._first: list[str] = []

    def add(
        self, collection: str, id: str, place: Place, digest: bytes, reasons: Mapping[str, Vectorless]
    ) -> SkippedInput:
        """Count a text, with the reason of each model that makes no vector of it; its item in `skipped.jsonl`."""
        item = SkippedInput(
            collection=collection,
            file=place.file,
            index=place.index,
            reason=next(iter(reasons.values())),
            detail=f"its id is {shortened(id)!a}",
            models=tuple(reasons),
            text_digest=digest.hex(),
        )
        self.skipped.add(item)
        self._counts.update(reasons.items())
        if len(self._first) < _NAMED:
            self._first.append(f"{shortened(id)!a} in {place}")
        return item

    def notices(self) -> list[tuple[str, str]]:
        """A model and a sentence on it, for each model and reason."""
        return [
            (
                model,
                f"{_texts(reason, count)} in this model: a run leaves {_them(count)} out for all models, "
                "see skipped.jsonl",
            )
            for (model, reason), count in self._counts.items()
        ]

    def error(self) -> VectorlessTextsError:
        """How many in which model, the first by name, and what to do."""
        parts = ", ".join(f"{_texts(reason, count)} in {model}" for (model, reason), count in self._counts.items())
        some = f"the first {_NAMED} are " if self.skipped.count > _NAMED else ""
        where = " and ".join(filter(None, (", ".join(self._first[:-1]), self._first[-1])))
        them = _them(self.skipped.count)
        return VectorlessTextsError(
            f"{parts}; {some}{where}: remove {them}, or leave {them} out with --on-bad-input skip"
        )


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _texts(reason: Vectorless, count: int) -> str:
    return f"{count_text(count, 'text')} {_WORDS[reason][count != 1]}"
