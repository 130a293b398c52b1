"""The outcome of a validation as one value: the checks, and what they were judged from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soloist.shown import ShownAsTable
from soloist.validation.checks import CheckResult
from soloist.validation.evidence import Evidence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation(ShownAsTable):
    """What became of each point of the checklist. `folder` has the runs, validation.json and validation.md; `versions`
    are those of the libraries.
    """

    folder: Path
    checks: tuple[CheckResult, ...]
    evidence: Evidence = field(repr=False)
    versions: Mapping[str, str] = field(repr=False)

    @property
    def holds(self) -> bool:
        """Whether no point failed. A point that this machine cannot show does not count as failed."""
        return all(check.verdict != "fail" for check in self.checks)

    def table_rows(self) -> list[dict[str, Any]]:
        """A row for each point."""
        return [asdict(check) for check in self.checks]
