"""Run folders whose files say what a test wants, without a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.run_events import BEGAN, Timed, write_shard

from soloist.events import event_to_dict
from soloist.stores import RunFolder


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A maker of run folders: `make_run(timed_events)`, with more lines after those of the events."""

    def make(timed: Timed = (), *, name: str = "run", more: Sequence[str] = (), shards: int = 2) -> Path:
        folder = RunFolder.create(tmp_path_factory.mktemp("runs") / name)
        for shard in range(shards):
            write_shard(folder, shard)
        lines = [json.dumps(event_to_dict(event, BEGAN + at)) for at, event in timed]
        (folder.path / "events.jsonl").write_text("".join(f"{line}\n" for line in [*lines, *more]))
        return folder.path

    return make
