"""Questions that are chunks of the run themselves, as ArguAna's and Quora's are. Pure; knows ids and positions.

Such a question finds itself first, which says nothing of a model. BEIR has the chunk with the question's own id out of
every ranking (its `ignore_identical_ids`), compares the plain ids, and leaves the judgements as they are: a question
whose own chunk is judged relevant misses it. So do we.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.retrieval.metrics import DEPTH
from soloist.retrieval.qrels import Qrels
from soloist.wording import count_text


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HitFilter:
    """Which rows count as hits: those of all chunks but, for a question in `own`, the one with the question's id.

    `ids` are the chunks' in the order of the rows.
    """

    ids: Sequence[str]
    own: Mapping[str, int]  # the row of each question's own chunk

    @classmethod
    def of(cls, qrels: Qrels, ids: Sequence[str], *, keep_own: bool) -> HitFilter:
        """Questions that were made from headings have ids of ours, which are no chunk's."""
        if keep_own or qrels.weak:
            return cls(ids=ids, own={})
        rows = {chunk: row for row, chunk in enumerate(ids)}
        return cls(ids=ids, own={query: rows[query] for query in qrels.queries if query in rows})

    @property
    def depth(self) -> int:
        """How many rows a system has to find, so that as many are left as are scored."""
        return min(DEPTH + bool(self.own), len(self.ids))

    def rankings(self, positions: Iterable[NDArray[np.int64]], queries: Sequence[str]) -> list[list[str]]:
        """Rankings of rows as rankings of the chunks' ids; `queries` are the questions' ids."""
        return [self._ranking(row, query) for row, query in zip(positions, queries, strict=True)]

    def _ranking(self, positions: NDArray[np.int64], query: str) -> list[str]:
        counted = positions[positions != self.own[query]] if query in self.own else positions
        return [self.ids[position] for position in counted[:DEPTH].tolist()]

    def notices(self, qrels: Qrels, texts: Mapping[int, str]) -> tuple[str, ...]:
        """How many questions this concerns, and where it may be a mistake; `texts` are of the rows in `own`."""
        if not self.own:
            return ()
        count = count_text(len(self.own), "question")
        said = [
            f"{count} with the same id as a chunk: that chunk is taken for the question itself and does not count as "
            "its hit, which is BEIR's rule; --keep-own counts it"
        ]
        if not any(_plain(qrels.queries[query]) in _plain(texts[row]) for query, row in self.own.items()):
            said.append(
                "none of these questions has the text of its chunk, so their ids may be the same by chance: if they "
                "are, give --keep-own"
            )
        missed = sum(qrels.judgements[query].get(query, 0) > 0 for query in self.own)
        if missed:
            have = "has its own chunk" if missed == 1 else "have their own chunk"
            said.append(f"{missed:,} of these questions {have} judged relevant, which counts as missed")
        return tuple(said)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
