"""Which files of a model are not those that made a run. Pure: digests in, a sentence out."""

from __future__ import annotations

from collections.abc import Mapping

from soloist.errors import ConfigError
from soloist.wording import listed

_SHOWN = 3  # files that a sentence names


def other_model(name: str) -> str:
    """How a sentence about such a model begins."""
    return f"{name} on this machine is not the model that made the run"


def require_files(
    name: str, recorded: Mapping[str, str], here: Mapping[str, str], recorded_revision: str | None, revision: str | None
) -> None:
    """Refuse a model whose files, sha256 by name, are not the `recorded` ones. Revisions are commits on the hub.

    Raises:
        ConfigError: some are others; the message names them.
    """
    if dict(here) == dict(recorded):
        return
    others = [file for file in recorded if file in here and here[file] != recorded[file]]
    missing = [file for file in recorded if file not in here]
    more = [file for file in here if file not in recorded]
    parts = ((others, "has other content", "have other content"), (missing, "is missing", "are missing"))
    said = [_said(names, one, several) for names, one, several in (*parts, (more, "is new", "are new")) if names]
    revisions = ""
    if revision is not None and recorded_revision not in (None, revision):
        revisions = f" (it is of revision {revision}, and the run's of {recorded_revision})"
    raise ConfigError(
        f"{other_model(name)}, because its {' and its '.join(said)}{revisions}: give --catalogue a file that has the "
        "folder of that model, or embed the chunks again with the model that is here"
    )


def _said(names: list[str], one: str, several: str) -> str:
    if len(names) == 1:
        return f"file {names[0]} {one}"
    shown = names[:_SHOWN] if len(names) <= _SHOWN else [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]
    return f"files {listed(shown)} {several}"
