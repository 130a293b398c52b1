"""Members of a run whose rows differ in length, as exports see them: words, and sparse vectors. Values; opens no file.

An entry is a dimension of a sparse vector with its value, or a term of a text with its count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from soloist.ragged import Keys, RaggedRows, TermRows
from soloist.types import MemberKind

LongRows = RaggedRows | TermRows
Entries = Mapping[Any, float]  # of one row, by dimension or by term
WHAT: Mapping[MemberKind, str] = {"dense": "dense vectors", "sparse": "sparse vectors", "lexical": "words"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedMember:
    """A member of a run with rows of different lengths.

    - `dim` is the size of the vocabulary that a sparse vector is over; words have none.
    - `language` is that of words, as `soloist.languages` calls it.
    - `words` is how many words all texts of the run have together, repeats counted, and `texts` how many texts these
      are: also those of collections that are not exported.
    """

    kind: MemberKind
    dim: int | None = None
    language: str | None = None
    words: int = 0
    texts: int = 0


def entries_of(rows: LongRows) -> list[dict[Any, float]]:
    """The entries of each row, as the run has them."""
    if isinstance(rows, TermRows):
        return [dict(rows.terms(number)) for number in range(len(rows))]
    return [dict(zip(keys.tolist(), values.tolist(), strict=True)) for keys, values in rows]


def row_digests(rows: LongRows, size: int, salt: str = "") -> list[str]:
    """Hex digits over the entries of each row, `size` bytes. `salt` is what else a store makes its numbers of."""
    if isinstance(rows, TermRows):
        # Two texts with the same words have the same digest, whatever else is in the vocabulary.
        hashes = [hashlib.blake2b(term.encode(), digest_size=8).digest() for term in rows.vocabulary]
        numbered = np.frombuffer(b"".join(hashes), "<u8")
        return _digests(rows.rows, lambda keys: numbered[keys].tobytes(), "<u4", size, salt)
    return _digests(rows, lambda keys: keys.astype("<u4").tobytes(), "<f4", size, salt)


def _digests(rows: RaggedRows, named: Callable[[Keys], bytes], dtype: str, size: int, salt: str) -> list[str]:
    start = hashlib.blake2b(salt.encode(), digest_size=size)
    found = []
    for keys, values in rows:
        digest = start.copy()
        digest.update(named(keys))
        digest.update(values.astype(dtype).tobytes())
        found.append(digest.hexdigest())
    return found
