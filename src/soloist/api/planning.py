"""The estimate of a run as Python asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from soloist.api.settings import AnyPath, GivenChunks, Settings, config_of
from soloist.checked import seconds, whole_number
from soloist.config import RunConfig
from soloist.errors import ConfigError
from soloist.planning.estimate import estimate_run
from soloist.planning.run_estimate import RunEstimate

if TYPE_CHECKING:
    from typing_extensions import Unpack


def plan(
    chunks: RunConfig | AnyPath | GivenChunks,
    /,
    *,
    session: float | str | None = None,
    nodes: int = 1,
    **settings: Unpack[Settings],
) -> RunEstimate:
    """Estimate what a run needs and whether it fits: tokens, memory, batches, time, disk, download.

        soloist.plan("chunks", models=["bge-m3"], accelerator="simulated:2xT4", session="9h")

    The arguments are those of `embed`. `session` is the time that you have on the machine: seconds, or a duration such
    as "9h". `nodes` machines like this one share out the encoding. `out` is the folder that `embed` would write;
    without `out`, the plan is for a new folder here. No weights are loaded. In a notebook the estimate is shown as
    tables; `to_pandas` gives a row for each model.

    Raises:
        SoloistError: the input, a model or the accelerator cannot be used, or nothing is known of a model's network.
    """
    if not isinstance(chunks, RunConfig):
        settings = {"out": ".", **settings}
    config, given = config_of("soloist.plan", chunks, settings)
    session_seconds = seconds(f"session is {session!r}", session) if session is not None else None
    if whole_number(f"nodes is {nodes!r}", nodes) < 1:
        raise ConfigError(f"nodes is {nodes}: give 1 or more machines")
    return estimate_run(config, session_seconds, chunks=given, nodes=nodes)
