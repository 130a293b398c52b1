"""An inverted index as it lies in its file: the operating system reads what is looked at, and nothing is loaded whole.

Knows the file of one collection. Knows nothing of scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.errors import OutputError
from soloist.stores.index_layout import Tensor, read_header
from soloist.stores.index_writing import FORMAT
from soloist.stores.tables import REPAIR, read_errors

_NEEDED: dict[str, tuple[str, ...]] = {
    "sparse": ("starts", "rows", "values"),
    "lexical": ("starts", "rows", "values", "lengths", "term_starts", "term_bytes"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Postings:
    """The rows that have a term, ascending, and its value or count in each: views of the file."""

    rows: NDArray[np.uint32]
    values: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InvertedIndex:
    """The index of one member over one collection of `rows` rows, which have `words` words together (words only)."""

    path: Path
    rows: int
    words: int
    arrays: dict[str, NDArray[Any]]

    @classmethod
    def open(cls, path: Path) -> InvertedIndex:
        """Map a file that `write_index` wrote.

        Raises:
            OutputError: it is missing, is not such a file, or is cut short.
        """
        with read_errors(path, if_missing=REPAIR), path.open("rb") as file:
            tensors, facts = read_header(file, path.stat().st_size)
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']}, and this version reads {FORMAT}")
            missing = [name for name in _NEEDED[facts["kind"]] if name not in tensors]
            if missing:
                raise ValueError(f"it lacks {missing[0]}")
            raw = np.asarray(np.memmap(file, np.uint8, "r"))
            arrays = {name: _mapped(raw, tensor) for name, tensor in tensors.items()}
            return cls(path=path, rows=int(facts["rows"]), words=int(facts.get("words", 0)), arrays=arrays)

    @property
    def terms(self) -> int:
        """How many terms there are."""
        return len(self.arrays["starts"]) - 1

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """How many words each row has."""
        return self.arrays["lengths"]

    def find(self, term: str) -> int | None:
        """The number of a word; None where no row has it."""
        wanted = term.encode()
        low, high = 0, self.terms
        while low < high:
            middle = (low + high) // 2
            if self._term(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < self.terms and self._term(low) == wanted else None

    def _term(self, number: int) -> bytes:
        begin, end = self.arrays["term_starts"][number : number + 2].tolist()
        return self.arrays["term_bytes"][begin:end].tobytes()

    def frequency(self, term: int | None) -> int:
        """How many rows have a term."""
        return len(self.postings(term).rows)

    def postings(self, term: int | None) -> Postings:
        """The postings of a term; none for a term that no row has.

        Raises:
            OutputError: the file is damaged.
        """
        begin, end = 0, 0
        if term is not None and term < self.terms:
            begin, end = self.arrays["starts"][term : term + 2].tolist()
        rows = self.arrays["rows"][begin:end]
        if end < begin or len(rows) != end - begin or (len(rows) and int(rows[-1]) >= self.rows):
            raise OutputError(
                f"{self.path} is damaged: the rows of its term {term} are not those of the collection: {REPAIR}"
            )
        return Postings(rows=rows, values=self.arrays["values"][begin:end])


def _mapped(raw: NDArray[np.uint8], tensor: Tensor) -> NDArray[Any]:
    return raw[tensor.offset : tensor.end].view(tensor.dtype)
