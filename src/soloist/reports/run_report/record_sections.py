"""What a report says of a run as a whole: its state, sessions, evaluation, notices, models, versions and settings."""

from __future__ import annotations

import datetime

from soloist.reports.run_report.sections import Section, Table, seconds_text, shown_text, table
from soloist.reports.run_report.thinning import BARS
from soloist.reports.run_report.values import EvaluationFacts, RunFacts, SystemFacts
from soloist.reports.text import bytes_text
from soloist.wording import count_text


def summary(facts: RunFacts) -> Section:
    """The run in a few figures, and what the report lacks."""
    last = facts.sessions[-1] if facts.sessions else None
    tokens, seconds = sum(part.tokens for part in facts.work), sum(part.seconds for part in facts.work)
    rows = [
        ("folder", facts.folder),
        ("state", facts.state + (f": {facts.error}" if facts.error else "")),
        ("chunks", f"{facts.chunks:,} in {count_text(len(facts.collections), 'collection')}"),
        ("models", ", ".join(facts.names) or "not recorded"),
        ("chunks with vectors", ", ".join(f"{m.name} {m.done_chunks:,}" for m in facts.models) or "-"),
        ("fusion", f"{facts.fusion}, {facts.fused_chunks:,} chunks fused" if facts.fusion else "none"),
        ("devices", ", ".join(facts.devices or (last.devices if last else ())) or "not recorded"),
        ("accelerator", (last.accelerator if last else "") or "not recorded"),
        ("mode", (last.mode if last else "") or "not recorded"),
        ("time of all sessions", seconds_text(facts.seconds)),
        ("tokens embedded", f"{tokens:,}" + (f" at {tokens / seconds:,.0f} tokens/s" if seconds else "")),
    ]
    collections = [(name, f"{count:,}") for name, count in facts.collections.items()]
    tables = [table("The run", ("", "value"), rows)]
    tables += [table("Collections", ("collection", "chunks"), collections, most=50)] if len(collections) > 1 else []
    return Section(name="summary", title="Summary", text=facts.gaps, tables=tuple(tables))


def sessions(facts: RunFacts) -> Section:
    """Each command that worked on the run."""
    if not facts.sessions:
        return Section(name="sessions", title="Sessions", text=("No session is recorded.",))
    rows = [
        (str(part.number), _date(part.started), seconds_text(part.ends - part.begins), part.ended, part.error or "-")
        for part in facts.sessions
    ]
    columns = ("session", "began (UTC)", "took", "end", "why it ended")
    text = f"{count_text(len(rows), 'command')} worked on this run."
    return Section(name="sessions", title="Sessions", text=(text,), tables=(table("Sessions", columns, rows),))


def _date(seconds: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "unknown"


def evaluation(facts: RunFacts) -> Section:
    """How well the models and the fusion find, if somebody has evaluated the run."""
    found, title = facts.evaluation, "Evaluation"
    if found is None:
        text = (
            "No evaluation was given. soloist eval RUN --json > evaluation.json makes one, and "
            "soloist report RUN --evaluation evaluation.json shows it."
        )
        return Section(name="evaluation", title=title, text=(text,))
    asked = f"{count_text(found.questions, 'question')}. The lines are 95% intervals of the gain over "
    best = max(found.systems, key=lambda system: system.measures.get("nDCG@10", 0.0))
    return Section(
        name="evaluation",
        title=title,
        text=(
            *found.verdicts,
            f"{asked}{found.best_single}, the best single model.",
            *shown_text("systems", len(found.systems), BARS),
        ),
        tables=(_systems(found), *([_evaluation_notices(found)] if found.notices else [])),
        has_figure=True,
        alt=f"nDCG@10 of each system. The best is {best.name} with {best.measures.get('nDCG@10', 0.0):.4f}.",
    )


def _systems(found: EvaluationFacts) -> Table:
    measures = list(dict.fromkeys(name for system in found.systems for name in system.measures))
    ordered = sorted(found.systems, key=lambda system: -system.measures.get("nDCG@10", 0.0))
    rows = [
        (system.name, system.kind, *(f"{system.measures[m]:.4f}" if m in system.measures else "-" for m in measures),
         _gain(system))
        for system in ordered
    ]  # fmt: skip
    return table("Systems", ("ranked by", "kind", *measures, "against the best model"), rows)


def _evaluation_notices(found: EvaluationFacts) -> Table:
    return table("Notices of the evaluation", ("notice",), [(notice,) for notice in found.notices])


def _gain(system: SystemFacts) -> str:
    if system.gain is None:
        return "-"
    has_interval = system.low is not None and system.high is not None
    return f"{system.gain:+.4f}" + (f" [{system.low:+.4f}, {system.high:+.4f}]" if has_interval else "")


def notices(facts: RunFacts) -> Section:
    """What the run told its user, and what it left out."""
    rows = [(told.about, told.message, f"{told.times:,}") for told in facts.notices]
    skipped = [(reason, f"{count:,}") for reason, count in facts.skipped.items()]
    tables = [table("Notices", ("about", "notice", "times"), rows)] if rows else []
    tables += [table("Input that was left out", ("reason", "times"), skipped)] if skipped else []
    text = () if tables else ("The run gave no notice, and left nothing out.",)
    return Section(name="notices", title="Notices and warnings", text=text, tables=tuple(tables))


def models(facts: RunFacts) -> Section:
    """Each model as it was loaded."""
    if not facts.models:
        return Section(name="models", title="Models", text=("No model is recorded.",))
    more = list(dict.fromkeys(key for model in facts.models for key in model.more))
    facts_of = {
        "source": [model.source for model in facts.models],
        "revision": [model.revision for model in facts.models],
        "fingerprint": [model.fingerprint for model in facts.models],
        "dtype": [model.dtype for model in facts.models],
        "dimensions": [f"{model.dim:,}" if model.dim else "" for model in facts.models],
        "most tokens": [f"{model.max_tokens:,}" if model.max_tokens else "" for model in facts.models],
        "weights": [bytes_text(model.weights_bytes) if model.weights_bytes else "" for model in facts.models],
        **{key: [model.more.get(key, "") for model in facts.models] for key in more},
    }
    rows = [(name, *(value or "-" for value in values)) for name, values in facts_of.items() if any(values)]
    return Section(name="models", title="Models", tables=(table("Models", ("", *facts.names), rows),))


def versions(facts: RunFacts) -> Section:
    """The versions of what made the run; a column for each change."""
    known = [session for session in facts.sessions if session.versions]
    if not known:
        return Section(name="versions", title="Versions", text=("No version is recorded.",))
    distinct = {tuple(session.versions.items()): session for session in reversed(known)}
    columns = list(reversed(distinct.values()))
    names = list(dict.fromkeys(name for session in columns for name in session.versions))
    rows = [(name, *(session.versions.get(name, "-") for session in columns)) for name in names]
    heads = [f"from session {session.number}" for session in columns]
    return Section(name="versions", title="Versions", tables=(table("Versions", ("", *heads), rows),))


def settings(facts: RunFacts) -> Section:
    """The settings of the run."""
    if not facts.settings:
        return Section(name="settings", title="Settings", text=("No settings are recorded.",))
    rows = list(facts.settings.items())
    return Section(name="settings", title="Settings", tables=(table("Settings", ("setting", "value"), rows),))
