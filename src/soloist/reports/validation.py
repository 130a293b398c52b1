"""The checklist's outcome on a terminal, as Markdown and as JSON. Knows results, and runs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from soloist.reports.text import one_line

if TYPE_CHECKING:
    from soloist.validation import CheckResult, Evidence

_STYLES = {"pass": "green", "fail": "bold red", "cannot be shown here": "yellow"}
_WIDTH = max(map(len, _STYLES))


def print_checks(results: Sequence[CheckResult], evidence: Evidence, console: Console) -> None:
    """A line for the machine, two for each point, and the sum."""
    console.print(Text(one_line(machine_line(evidence))), soft_wrap=True)
    console.print()
    for result in results:
        line = Text(f"{result.verdict:<{_WIDTH}}  ", style=_STYLES[result.verdict])
        line.append(title_of(result), style="default")
        console.print(line, soft_wrap=True)
        console.print(Text(f"{'':<{_WIDTH}}  {one_line(result.evidence)}", style="dim"), soft_wrap=True)
    console.print()
    console.print(Text(sum_line(results)), soft_wrap=True)


def markdown(results: Sequence[CheckResult], evidence: Evidence, versions: Mapping[str, str]) -> str:
    """The outcome as a Markdown page."""
    lines = ["# Validation", "", machine_line(evidence), "", ", ".join(f"{n} {v}" for n, v in versions.items()), ""]
    lines += ["| point | what | verdict | evidence |", "|---|---|---|---|"]
    for result in results:
        cells = (str(result.point or "+"), result.title, result.verdict, one_line(result.evidence))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", sum_line(results), ""])


def checks_to_dict(results: Sequence[CheckResult], evidence: Evidence, versions: Mapping[str, str]) -> dict[str, Any]:
    """The outcome as JSON-ready values."""
    return {
        "accelerator": evidence.accelerator,
        "devices": list(evidence.devices),
        "card": asdict(evidence.card),
        "models": list(evidence.models),
        "chunks": evidence.chunks,
        "versions": dict(versions),
        "verdicts": dict(Counter(result.verdict for result in results)),
        "checks": [asdict(result) for result in results],
    }


def title_of(result: CheckResult) -> str:
    """The title of a point, with its number in the plan."""
    return f"{result.point}. {result.title}" if result.point is not None else result.title


def machine_line(evidence: Evidence) -> str:
    """The devices, the models, and how many chunks were rehearsed with."""
    devices = f"{len(evidence.devices)} x {evidence.card.device_name} ({evidence.accelerator})"
    return f"{devices}, {', '.join(evidence.models)}, {evidence.chunks} chunks"


def sum_line(results: Sequence[CheckResult]) -> str:
    """How many points have which verdict."""
    counts: Counter[str] = Counter(result.verdict for result in results)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES if counts[verdict])
