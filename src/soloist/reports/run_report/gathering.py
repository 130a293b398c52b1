"""Turns a run folder into the facts of its report. Reads the files of a run, and changes none.

`RunFacts.gaps` has a sentence for each thing that is missing or damaged. Only a folder without a run is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soloist.errors import ConfigError, OutputError
from soloist.reports.run_report.fields import Fields, lines_of
from soloist.reports.run_report.from_events import EventFacts, add_up
from soloist.reports.run_report.token_lengths import FILES, token_lengths
from soloist.reports.run_report.values import (
    PHASES,
    UNDIVIDED,
    BatchShape,
    EvaluationFacts,
    ModelFacts,
    Phase,
    RunFacts,
    Session,
    State,
    SystemFacts,
    TokenLengths,
    Told,
)
from soloist.stores import RunFolder
from soloist.stores.layout import STATE
from soloist.stores.manifest import FileRecord
from soloist.wording import count_text

EVENTS = "events.jsonl"
_SUMMARY = "run.json"
# What run.json says of a model beside the fields of `ModelFacts`.
_MORE = ("matmul", "document_prompt", "query_prompt", "licence", "weight", "matryoshka_dims")


def gather(path: Path, evaluation: Fields | None = None) -> RunFacts:
    """The facts of a run, finished or not. `evaluation` is what `soloist eval --json` printed of it.

    Raises:
        OutputPathError: the folder does not exist, or is not the folder of a run.
        ConfigError: `evaluation` is of another run.
    """
    if not (path / EVENTS).is_file():
        RunFolder.at(path)
    folder, gaps = RunFolder(path), list[str]()
    summary = _json(folder, _SUMMARY, gaps)
    settings = summary if summary.values else _json(folder, STATE, gaps)
    records = _records(folder, gaps)
    found = add_up(_events(path / EVENTS, gaps))
    state, sessions = _state(folder, found)
    names = _names(summary, settings, found, records)
    lengths = _lengths(path, names, records, gaps)
    gaps += _missing(found)
    return RunFacts(
        folder=str(path),
        state=state,
        error=sessions[-1].error if sessions and state != "finished" else None,
        chunks=sum(record.rows for record in records if record.kind == "chunks"),
        fused_chunks=sum(record.rows for record in records if record.kind == "fused"),
        collections=_collections(records) or dict(found.collections),
        sessions=sessions,
        models=tuple(_model(name, summary, found, records) for name in names),
        leases=found.leases,
        memory={device: tuple(points) for device, points in found.memory.items()},
        rates=tuple(found.rates),
        splits=tuple(found.splits),
        split_counts=dict(found.split_counts),
        work=found.work,
        batches={model: _shapes(counts) for model, counts in found.batches.items()},
        phases=_phases(found),
        lengths=lengths,
        notices=tuple(Told(about=a, message=m, times=n) for (a, m), n in found.notices.items()),
        skipped=dict(found.skipped),
        settings=_settings(settings),
        fusion=_fusion(settings),
        evaluation=None if evaluation is None else _evaluation(evaluation, names, path),
        gaps=tuple(gaps),
    )


def read_evaluation(path: Path) -> Fields:
    """What `soloist eval --json` printed into a file.

    Raises:
        ConfigError: the file cannot be read, or has something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not JSON"
        raise ConfigError(f"--evaluation is {path}, which cannot be read ({reason}): {_EVALUATE}") from exc
    return Fields.of(value)


_EVALUATE = "give a file that soloist eval RUN --json has printed"


def _events(path: Path, gaps: list[str]) -> Iterator[Fields | None]:
    if not path.is_file():
        return
    try:
        yield from lines_of(path)
    except OSError as exc:
        gaps.append(f"{EVENTS} cannot be read ({exc.strerror or exc}), so the report lacks what happened when.")


def _json(folder: RunFolder, name: str, gaps: list[str]) -> Fields:
    """A JSON file of the run; empty if it is missing or damaged."""
    if not (folder.path / name).is_file():
        return Fields()
    try:
        return folder.read_json_as(name, Fields.of)
    except (OutputError, RecursionError):
        gaps.append(f"{name} is damaged, so the report lacks what it says.")
        return Fields()


def _records(folder: RunFolder, gaps: list[str]) -> list[FileRecord]:
    try:
        return list(folder.manifest.read().values())
    except OutputError as exc:
        gaps.append(f"{exc}.")
        return []


def _state(folder: RunFolder, found: EventFacts) -> tuple[State, tuple[Session, ...]]:
    sessions = found.sessions
    if folder.is_finished:
        return "finished", sessions
    if not folder.is_locked():
        return "not finished", sessions
    if sessions and sessions[-1].ended == "no end recorded":
        sessions = (*sessions[:-1], replace(sessions[-1], ended="at work"))
    return "running", sessions


def _names(summary: Fields, settings: Fields, found: EventFacts, records: Sequence[FileRecord]) -> tuple[str, ...]:
    """The models of the run: first those of run.json or state.json, then all others that events and files name."""
    listed = [model.text("name") for model in summary.parts("models")]
    begun = [*settings.part("models").values]
    seen = [*found.staged, *(model for _, model in found.sums), *(record.model for record in records)]
    return tuple(dict.fromkeys(name for name in (*listed, *begun, *seen) if name))


def _model(name: str, summary: Fields, found: EventFacts, records: Sequence[FileRecord]) -> ModelFacts:
    listed = next((model for model in summary.parts("models") if model.text("name") == name), Fields())
    staged, planned = found.staged.get(name, Fields()), found.planned.get(name, Fields())
    known = Fields({**staged.values, **listed.values})
    budget = listed.part("budget")
    more = {key.replace("_", " "): listed.values[key] for key in _MORE if listed.values.get(key) not in (None, "", [])}
    return ModelFacts(
        name=name,
        source=known.text("source") or "",
        revision=known.text("revision") or "",
        fingerprint=known.text("fingerprint") or "",
        dtype=known.text("dtype") or "",
        dim=known.count("dim"),
        max_tokens=known.count("max_tokens") or None,
        weights_bytes=staged.count("weights_bytes"),
        token_budget=budget.count("tokens") or planned.count("token_budget"),
        budget_source=budget.text("source") or planned.text("budget_source") or "",
        limit_bytes=planned.count("limit_bytes"),
        done_chunks=sum(record.rows for record in records if (record.kind, record.model) == ("vectors", name)),
        more={key: _plain(value) for key, value in more.items()},
    )


def _collections(records: Sequence[FileRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        if record.kind == "chunks":
            counts[record.collection] = counts.get(record.collection, 0) + record.rows
    return counts


def _shapes(counts: Mapping[tuple[int, int], int]) -> tuple[BatchShape, ...]:
    """The shapes of batches, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(BatchShape(rows=rows, padded_length=length, count=n) for (rows, length), n in ordered)


def _phases(found: EventFacts) -> tuple[Phase, ...]:
    """The phases that events have, in the order of a run."""
    order = [*PHASES[:3], UNDIVIDED, *PHASES[3:]]
    return tuple(
        Phase(
            name=name, seconds=sum(found.phases[name].values()),
            by_model={model: seconds for model, seconds in found.phases[name].items() if model},
        )
        for name in order
        if name in found.phases
    )  # fmt: skip


def _lengths(
    path: Path, names: Sequence[str], records: Sequence[FileRecord], gaps: list[str]
) -> tuple[TokenLengths, ...]:
    lengths = tuple(found for name in names if (found := token_lengths(path, name, records)) is not None)
    for found in lengths:
        if found.files > FILES:
            gaps.append(
                f"The token lengths of {found.model} are from {found.files_read:,} of its {found.files:,} files of "
                "vectors, taken at equal distances."
            )
        if found.files_damaged:
            gaps.append(
                f"The token lengths of {found.model} lack {count_text(found.files_damaged, 'file')} of vectors that "
                "cannot be read, or that an earlier version wrote without them."
            )
    return lengths


def _missing(found: EventFacts) -> Iterator[str]:
    """What the events lack, in sentences."""
    if not found.open_sessions:
        yield "The run has no events, so the report lacks its sessions, leases, memory, rates, batches and phases."
    if found.damaged:
        yield f"{count_text(found.damaged, 'line')} of {EVENTS} cannot be read, and what they said is missing."
    if found.open_sessions and not any(session.versions for session in found.sessions):
        yield "An earlier version of soloist made this run, and recorded no versions of packages."
    if found.lacks_parts:
        yield (
            "An earlier version of soloist embedded some shards. It did not record the seconds of tokenizing, encoding "
            "and writing apart, nor the memory after each shard."
        )


def _settings(found: Fields) -> dict[str, str]:
    """The config as text. Fields of its parts stand beside the other fields."""
    flat: dict[str, str] = {}
    for name, value in found.part("config").values.items():
        parts = value.items() if isinstance(value, dict) and name in ("fusion", "source") else [("", value)]
        flat.update({f"{name} {key}".strip().replace("_", " "): _plain(inner) for key, inner in parts})
    return flat


def _fusion(found: Fields) -> str:
    plan = found.part("fusion")
    method, dim = plan.text("method"), plan.count("dim")
    return f"{method}, {dim:,} dimensions" if method is not None else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evaluation(found: Fields, models: Sequence[str], path: Path) -> EvaluationFacts:
    systems = tuple(_system(system) for system in found.parts("systems"))
    judged = {system.name for system in systems if system.kind == "model"}
    if not systems or not judged <= set(models):
        what = "has no systems" if not systems else f"is of {', '.join(sorted(judged))}"
        raise ConfigError(
            f"the evaluation {what}, but the run {path} has {', '.join(models) or 'no models'}: {_EVALUATE}"
        )
    verdicts = (found.part(name).text("text") for name in ("verdict", "best_verdict"))
    return EvaluationFacts(
        questions=found.count("questions"),
        best_single=found.text("best_single") or "",
        systems=systems,
        verdicts=tuple(dict.fromkeys(text for text in verdicts if text)),
        notices=found.texts("notices"),
    )


def _system(found: Fields) -> SystemFacts:
    gain = found.part("gain")
    return SystemFacts(
        name=found.text("name") or "", kind=found.text("kind") or "", measures=found.numbers("measures"),
        gain=gain.number("mean"), low=gain.number("low"), high=gain.number("high"),
    )  # fmt: skip
