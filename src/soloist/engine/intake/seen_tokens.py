"""The tokens of texts that were looked at before the first lease, kept for the pass that embeds these texts.

They lie in a file without a name in the run folder, so memory does not grow with the chunks, and nothing is left behind
however the run ends. They only save time: where the disk has no room for them, the texts are tokenized once more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from soloist.digests import DIGEST_BYTES
from soloist.encoding.tokenizing import TokenizedTexts

Key = tuple[str, str, int]  # a model, a collection, a shard


@dataclass(frozen=True, slots=True)
class _Block:
    """Where the texts of a shard lie in the file: their digests, their lengths, what was cut off, and their tokens."""

    offset: int
    rows: int
    tokens: int

    @property
    def size(self) -> int:
        return self.rows * DIGEST_BYTES + 4 * (2 * self.rows + self.tokens)


class SeenTokens:
    """Token ids by model and shard. A context manager: its end gives the disk back.

    `keep` and `take` may be called by different threads, one after the other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._blocks: dict[Key, _Block] = {}
        self._failed = False

    def __enter__(self) -> SeenTokens:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget all tokens."""
        self._blocks.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def keep(self, key: Key, digests: Sequence[bytes], parts: Sequence[TokenizedTexts]) -> None:
        """Keep the tokens of the texts with these digests, given in parts; nothing where the disk has no room."""
        if self._failed or not digests:
            return
        rows = [ids for part in parts for ids in part.ids]
        counts = np.array([[len(ids) for ids in rows], [cut for part in parts for cut in part.dropped]], dtype=np.int32)
        tokens = np.concatenate(rows).astype(np.int32, copy=False)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            block = _Block(offset=self._file.seek(0, 2), rows=len(rows), tokens=len(tokens))
            self._file.write(b"".join(digests) + counts.tobytes() + tokens.tobytes())
            self._file.flush()
        except OSError:
            self._failed = True
            self._let_go()
            return
        self._blocks[key] = block

    def take(self, key: Key, digests: Sequence[bytes]) -> TokenizedTexts | None:
        """The tokens of the texts with these digests, in their order; None where one of them was not kept."""
        block = self._blocks.get(key)
        if block is None or self._file is None:
            return None
        try:
            self._file.seek(block.offset)
            content = self._file.read(block.size)
        except OSError:
            return None
        return _picked(block, content, digests) if len(content) == block.size else None

    def _let_go(self) -> None:
        try:
            self.close()
        except OSError:  # what was not flushed has no room either, and the file is closed all the same
            self._file = None


def _picked(block: _Block, content: bytes, digests: Sequence[bytes]) -> TokenizedTexts | None:
    counts_at = block.rows * DIGEST_BYTES
    row_of = {content[at : at + DIGEST_BYTES]: at // DIGEST_BYTES for at in range(0, counts_at, DIGEST_BYTES)}
    chosen = [row_of.get(digest) for digest in digests]
    if None in chosen:
        return None
    lengths, dropped = np.frombuffer(content, np.int32, 2 * block.rows, counts_at).reshape(2, block.rows)
    tokens = np.frombuffer(content, np.int32, block.tokens, counts_at + 8 * block.rows)
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends[:-1]]
    cut = dropped.tolist()
    rows = [row for row in chosen if row is not None]
    return TokenizedTexts(
        ids=tuple(tokens[starts[row] : ends[row]] for row in rows), dropped=tuple(cut[row] for row in rows)
    )
