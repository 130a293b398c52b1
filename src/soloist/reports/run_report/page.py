"""Turns facts into the text of a page: one file with its style and figures, which loads nothing and runs no script.

Every text of a run is escaped, because names of files and models, ids and messages may contain anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2
from markupsafe import Markup

from soloist.reports.run_report import device_sections, model_sections, record_sections
from soloist.reports.run_report.canvas import HALF, NARROW, WIDE
from soloist.reports.run_report.figures import figure
from soloist.reports.run_report.sections import Section
from soloist.reports.run_report.values import RunFacts
from soloist.reports.text import printable

GENERATOR = "soloist report"
_SECTIONS: tuple[Callable[[RunFacts], Section], ...] = (
    record_sections.summary,
    record_sections.sessions,
    device_sections.leases,
    device_sections.memory,
    model_sections.rates,
    model_sections.phases,
    model_sections.lengths,
    model_sections.batches,
    model_sections.padding,
    device_sections.splits,
    model_sections.work,
    record_sections.evaluation,
    record_sections.notices,
    record_sections.models,
    record_sections.versions,
    record_sections.settings,
)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A figure for pages of a width."""

    width: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class _Shown:
    """A section of one run, with its figure in each width, if it has a figure."""

    section: Section
    figures: tuple[_Drawn, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A section of the page, with what it shows of each run."""

    name: str
    title: str
    shown: tuple[_Shown, ...]


def page(runs: Sequence[RunFacts], version: str) -> str:
    """The report of one run, or of two beside each other, as HTML."""
    names = [printable(facts.folder) for facts in runs]
    heading = "A run of soloist" if len(runs) == 1 else "Two runs of soloist"
    parts = [_part([of(facts) for facts in runs], runs) for of in _SECTIONS]
    return _template().render(
        title=f"{heading}: {' and '.join(names)}", heading=heading, names=names, parts=parts,
        generator=f"{GENERATOR} {version}", style=Markup(_own("page.css")),
    )  # fmt: skip


def _part(sections: Sequence[Section], runs: Sequence[RunFacts]) -> _Part:
    shown = [_Shown(section, _figures(section, number, runs)) for number, section in enumerate(sections)]
    return _Part(sections[0].name, sections[0].title, tuple(shown))


def _figures(section: Section, number: int, runs: Sequence[RunFacts]) -> tuple[_Drawn, ...]:
    """The figure of a section of one of the runs, for a wide page and for a narrow one."""
    if not section.has_figure:
        return ()
    widths = {"wide": WIDE if len(runs) == 1 else HALF, "narrow": NARROW}
    return tuple(
        _Drawn(name, Markup(figure(section.name, f"{name}-{number}", section.alt, width, runs[number], runs)))
        for name, width in widths.items()
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined, finalize=_shown_text,
    )  # fmt: skip
    return environment.from_string(_own("page.html.jinja"))


def _shown_text(value: object) -> object:
    """A text with control characters and lone surrogates as escapes: a page in UTF-8 cannot hold them."""
    return printable(value) if type(value) is str else value


def _own(name: str) -> str:
    return (files("soloist.reports.run_report") / name).read_text(encoding="utf-8")
