"""How far the pass of a model is, counted from its events. Knows no display, and reads no clock."""

from __future__ import annotations

from dataclasses import dataclass

from soloist.events import BatchEncoded, ShardEncoded


@dataclass(slots=True, kw_only=True)
class PassState:
    """How far a model is: `done` of its `chunks` have a vector, and the model has computed `embedded` of these.

    `chunks` is 0 until the model is on the devices, and `before` is `done` at that time. `seconds` counts the shards
    with rows to embed, without waiting for other models.
    """

    chunks: int = 0
    before: int = 0
    done: int = 0
    embedded: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> str:
        """Chunks that the model embeds in a second; empty until that is known."""
        return f"{self.embedded / self.seconds:,.1f} chunks/s" if self.seconds else ""

    @property
    def tenths(self) -> int:
        """How many tenths of the pass are done."""
        return 10 * self.done // max(1, self.chunks)

    def start(self, chunks: int) -> None:
        """The model is on the devices."""
        self.chunks, self.before = chunks, self.done

    def add_batch(self, event: BatchEncoded) -> None:
        """Count a batch. Displays that count batches count a shard by `end_shard`."""
        self.done += event.rows
        self.embedded += event.rows

    def end_shard(self, event: ShardEncoded) -> None:
        """Count what a shard has beyond its batches: copied rows, and seconds."""
        self.done += event.rows - event.embedded_rows
        self.seconds += event.encoding_seconds

    def add_shard(self, event: ShardEncoded) -> None:
        """Count a whole shard, where batches are not counted."""
        self.end_shard(event)
        self.done += event.embedded_rows
        self.embedded += event.embedded_rows

    def seconds_left(self, elapsed: float) -> float:
        """How long the rest takes at the pace of the `elapsed` seconds since the start.

        In standard mode models take turns, and each waits for the others. So this uses the clock, not `seconds`.
        """
        return elapsed / max(1, self.done - self.before) * (self.chunks - self.done)
