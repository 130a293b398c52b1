"""One pass: its models on all devices, every shard through every one of them.

The same code runs in the process that drives the run and, with process isolation, in a worker of its own.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.prefetch import Lookahead
from soloist.engine.drivers.preparing import (
    PreparedShard,
    WaitingShard,
    Work,
    at_once,
    prepare_shard,
    waiting_shard,
)
from soloist.engine.drivers.row_stores import row_stores
from soloist.engine.drivers.running import RunningPass
from soloist.engine.drivers.writing import ShardWriter, writer_for
from soloist.engine.resume.pending import pending, tell_kept
from soloist.errors import OutputError
from soloist.events import EventSink


def run_pass(
    context: PassContext, lease: AbstractContextManager[object], sink: EventSink, writer: ShardWriter | None = None
) -> None:
    """Embed every shard that is not finished with the models of a pass.

    The lease is taken when the first shard with rows to embed is ready. Without such a shard there is no lease. The
    caller gives `writer` if it has to know what is being written.

    Raises:
        RunStoppedError: the run was to end before all shards were done.
    """
    left = pending(context.run_shards, context.fingerprints)
    tell_kept(left.kept, sink)
    if not left.work:
        return
    stores = row_stores(context, {item.model for item in left.work})

    def prepare(item: Work) -> PreparedShard | WaitingShard:
        model = item.models[0]
        encoder, limits = context.encoders[model], context.plan.limits[model]
        folder, waiting = context.run_shards.folder, context.ahead.file(model, item.shard)
        if waiting is not None:
            with contextlib.suppress(OutputError):  # the file was damaged: compute this shard as any other
                return waiting_shard(item, waiting, folder, encoder, limits, stores[model])
        return prepare_shard(item, folder, encoder, limits, stores)

    with context.stop.shielded(), Lookahead(prepare, at_once(left.work, context)) as prepared:
        running = RunningPass(context, stores, left.chunks, lease, sink)
        running.through(prepared, writer or writer_for(context.accelerator))
