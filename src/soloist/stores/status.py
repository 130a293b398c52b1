"""How far a run is: from its manifest, its state and the rates in its events. Needs no model and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soloist.stores.going_on import way_on
from soloist.stores.layout import STATE
from soloist.stores.manifest import FileRecord
from soloist.stores.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """What one model has done and has left to do.

    `chunks_per_second` is the rate of the last session in which the model embedded any chunks, else None.
    """

    name: str
    chunks_done: int
    chunks: int
    shards_done: int
    shards: int
    chunks_per_second: float | None

    @property
    def seconds_left(self) -> float | None:
        """Until its last chunk, at that rate; None where the rate is not known."""
        left = self.chunks - self.chunks_done
        if not left:
            return 0.0
        return left / self.chunks_per_second if self.chunks_per_second else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run. `error` is what ended its last session, None where that succeeded or is still at work.

    `way_on` is what continues the run, as an imperative; empty where the run is finished or at work. `nodes` are those
    of a cluster that compute it now.
    """

    folder: Path
    finished: bool
    at_work: bool
    models: tuple[ModelStatus, ...]
    fused_shards_done: int
    shards: int
    error: str | None
    way_on: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """Of encoding by all models; None where the rate of one is not known."""
        times = [model.seconds_left for model in self.models]
        known = [time for time in times if time is not None]
        return sum(known) if len(known) == len(times) else None

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON-ready values."""
        models = [{**asdict(model), "seconds_left": model.seconds_left} for model in self.models]
        values = {**asdict(self), "folder": str(self.folder), "models": models, "seconds_left": self.seconds_left}
        if not self.nodes:  # as of a run on one machine
            del values["nodes"]
        return values


def run_status(path: Path) -> RunStatus:
    """The status of a run folder, finished or not.

    Raises:
        OutputError: there is no such folder, it is not that of a run, or its files cannot be read.
    """
    folder = RunFolder(path)
    finished = folder.is_finished
    events = list(_events(path / "events.jsonl"))
    if not (finished or (path / STATE).is_file()):
        if not any(event.get("event") == "RunStarted" for event in events):
            RunFolder.at(path)
        # The run was stopped before all chunks were read, or still reads them.
        at_work = folder.is_locked()
        return RunStatus(
            folder=path, finished=False, at_work=at_work, models=(), fused_shards_done=0, shards=0,
            error=_error(events), way_on="" if at_work else way_on(path),
        )  # fmt: skip
    records = folder.manifest.read()
    shards, fingerprints = _finished(folder, records) if finished else _begun(folder)
    models = tuple(
        _model(folder, records, shards, name, fingerprint, events) for name, fingerprint in fingerprints.items()
    )
    fused = sum(
        _is_done(records.get(folder.shards.fused_file(collection, index)), content)
        for (collection, index), (_, content) in shards.items()
    )
    at_work = folder.is_locked()
    return RunStatus(
        folder=path,
        finished=finished,
        at_work=at_work,
        models=models,
        fused_shards_done=fused,
        shards=len(shards),
        error=None if finished else _error(events),
        way_on="" if finished or at_work else way_on(path),
        nodes=_nodes(events) if at_work else (),
    )


def _nodes(events: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The nodes that hold a lease: devices of nodes have the name of their node before a slash."""
    held: dict[str, None] = {}
    for event in events:
        names = [device.split("/")[0] for device in event.get("devices") or () if "/" in device]
        match event.get("event"):
            case "RunStarted":
                held.clear()
            case "LeaseAcquired":
                held |= dict.fromkeys(names)
            case "LeaseReleased":
                held = {name: None for name in held if name not in names}
            case "Notice":  # a worker has ended
                held.pop(str(event.get("about")), None)
    return tuple(sorted(held))


_Shards = Mapping[tuple[str, int], tuple[int, str]]  # rows and content by collection and index


def _finished(folder: RunFolder, records: Mapping[str, FileRecord]) -> tuple[_Shards, dict[str, str]]:
    chunks = [record for record in records.values() if record.kind == "chunks"]
    shards = {(record.collection, record.shard): (record.rows, record.content) for record in chunks}
    return shards, folder.read_json_as("run.json", _fingerprints)


def _fingerprints(summary: Any) -> dict[str, str]:
    return {member["name"]: member["fingerprint"] for member in (*summary["models"], *summary.get("words", ()))}


def _begun(folder: RunFolder) -> tuple[_Shards, dict[str, str]]:
    return folder.read_json_as(STATE, _shards_and_models)


def _shards_and_models(state: Any) -> tuple[_Shards, dict[str, str]]:
    shards = {(collection, index): (rows, content) for collection, index, rows, content in state["shards"]}
    return shards, {**state["models"], **state.get("words", {})}


def _model(
    folder: RunFolder,
    records: Mapping[str, FileRecord],
    shards: _Shards,
    name: str,
    fingerprint: str,
    events: list[Mapping[str, Any]],
) -> ModelStatus:
    done = [
        rows
        for (collection, index), (rows, content) in shards.items()
        if _is_done(records.get(folder.shards.vectors_file(collection, name, index)), content, fingerprint)
    ]
    return ModelStatus(
        name=name,
        chunks_done=sum(done),
        chunks=sum(rows for rows, _ in shards.values()),
        shards_done=len(done),
        shards=len(shards),
        chunks_per_second=_rate(name, events),
    )


def _is_done(record: FileRecord | None, content: str, fingerprint: str | None = None) -> bool:
    return record is not None and record.content == content and fingerprint in (None, record.fingerprint)


def _rate(model: str, events: list[Mapping[str, Any]]) -> float | None:
    """Chunks a second of the last session in which the model embedded any."""
    rows = seconds = 0.0
    for event in reversed(events):
        if event.get("event") == "ShardEncoded" and event.get("model") == model:
            embedded = event.get("rows", 0) - event.get("reused_rows", 0) - event.get("repeated_rows", 0)
            rows += embedded
            seconds += event.get("seconds", 0) if embedded else 0
        elif event.get("event") == "RunStarted" and rows:
            break
    return rows / seconds if rows and seconds else None


def _error(events: list[Mapping[str, Any]]) -> str | None:
    ends = [event for event in events if event.get("event") in ("RunStarted", "RunFinished")]
    return ends[-1].get("error") if ends else None


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a run. A line that a killed run has half written is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
