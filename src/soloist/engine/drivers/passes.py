"""The passes of a run, each in this process, in one of its own, or on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from soloist.config import RunConfig
from soloist.devices import DeviceLease
from soloist.devices.lease import ProcessLease
from soloist.engine.drivers.cluster.coordinator import Coordinator, require_cluster
from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.isolated import run_isolated
from soloist.engine.drivers.local import run_pass
from soloist.engine.resume.pending import pending
from soloist.errors import LeaseTimeoutError
from soloist.events import EventSink
from soloist.stopping import Stop


def require_means(config: RunConfig) -> None:
    """Refuse what cannot be computed as the config asks, before anything is read.

    Raises:
        ConfigError: the address of the cluster cannot be one, or Ray is not installed.
    """
    if config.cluster is not None:
        require_cluster(config.cluster)


def run_passes(contexts: Sequence[PassContext], config: RunConfig, stop: Stop, sink: EventSink) -> None:
    """Embed every shard that is not finished, one pass after the other.

    Raises:
        RunStoppedError: the run was to end before all shards were done.
    """
    if config.cluster is not None and any(_is_left(context) for context in contexts):
        with Coordinator(config, contexts, stop, sink) as coordinator:
            for context in contexts:
                coordinator.run_pass(context)
        return
    for context in contexts:
        _run_here(context, config, sink)


def _is_left(context: PassContext) -> bool:
    return bool(pending(context.run_shards, context.fingerprints).work)


def _run_here(context: PassContext, config: RunConfig, sink: EventSink) -> None:
    """A pass in this process, or in one of its own."""
    kind = DeviceLease if config.isolation == "allocator" else ProcessLease
    limits = (config.lease_timeout_seconds, context.stop.remaining_seconds)
    timeout = min((seconds for seconds in limits if seconds is not None), default=None)
    lease = kind(context.accelerator, context.models, sink, lock_dir=config.lock_dir, timeout_seconds=timeout)
    try:
        if isinstance(lease, ProcessLease):
            run_isolated(context, config, lease, sink)
        else:
            run_pass(context, lease, sink)
    except LeaseTimeoutError:
        context.stop.check()  # the time that ended may have been the run's
        raise
