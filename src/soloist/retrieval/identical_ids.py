"""Questions that are chunks of the run themselves, as ArguAna's and Quora's are. Pure; knows ids and positions.

Such a question finds itself first, which says nothing of a model. BEIR takes the chunk with the question's own id out
of every ranking (its `ignore_identical_ids`), compares the plain ids, and leaves the judgements as they are: a question
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
    """Which rows count as hits: all rows, but for a question with an own row all the others.

    `ids` are the chunks' in the order of the rows. `own_rows` has the row of each chunk with a question's id.
    """

    ids: Sequence[str]
    own_rows: Mapping[str, int]

    @classmethod
    def of(cls, qrels: Qrels, ids: Sequence[str], *, keep_own: bool) -> HitFilter:
        """Questions that were made from headings have ids of our own, not those of chunks, so all rows count."""
        if keep_own or qrels.weak:
            return cls(ids=ids, own_rows={})
        rows = {chunk: row for row, chunk in enumerate(ids)}
        return cls(ids=ids, own_rows={query: rows[query] for query in qrels.queries if query in rows})

    @property
    def depth(self) -> int:
        """How many rows a system has to find, so that as many are left as are scored."""
        return min(DEPTH + bool(self.own_rows), len(self.ids))

    def rankings(self, positions: Iterable[NDArray[np.int64]], queries: Sequence[str]) -> list[list[str]]:
        """Rankings of rows as rankings of the chunks' ids; `queries` are the questions' ids."""
        return [self._ranking(row, query) for row, query in zip(positions, queries, strict=True)]

    def _ranking(self, positions: NDArray[np.int64], query: str) -> list[str]:
        counted = positions[positions != self.own_rows[query]] if query in self.own_rows else positions
        return [self.ids[position] for position in counted[:DEPTH].tolist()]

    def notices(self, qrels: Qrels, texts: Mapping[int, str]) -> tuple[str, ...]:
        """How many questions this concerns, and whether it may be a mistake; `texts` are those of the own rows."""
        if not self.own_rows:
            return ()
        count = count_text(len(self.own_rows), "question")
        notices = [
            f"{count} with the same id as a chunk: that chunk does not count as a hit of its question, which is BEIR's "
            "rule. --keep-own counts it"
        ]
        if not any(_plain(qrels.queries[query]) in _plain(texts[row]) for query, row in self.own_rows.items()):
            notices.append(
                "none of these questions has the text of its chunk, so their ids may be the same by chance. If so, "
                "give --keep-own"
            )
        missed = sum(qrels.judgements[query].get(query, 0) > 0 for query in self.own_rows)
        if missed:
            have = "has its own chunk" if missed == 1 else "have their own chunk"
            notices.append(f"{missed:,} of these questions {have} judged relevant, which counts as missed")
        return tuple(notices)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
