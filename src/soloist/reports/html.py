"""The HTML forms of results in a notebook: the tables and sentences of the terminal, readable on white and on black.

Everything that is not a tag is escaped: names, texts and metadata come from anywhere. Knows the values by their fields,
and no notebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from soloist.reports.estimate import (
    estimate_head,
    estimate_notes,
    estimate_tables,
    estimate_verdict,
    histogram_lines,
)
from soloist.reports.evaluation import evaluation_table
from soloist.reports.evaluation import lines as evaluation_lines
from soloist.reports.hits import metadata_line, source_of, text_lines
from soloist.reports.table import RIGHT_ALIGNED, Table, result_files, result_remarks, result_tables
from soloist.reports.text import one_line
from soloist.reports.validation import machine_line, sum_line, title_of
from soloist.shown import register_html_forms

if TYPE_CHECKING:
    from soloist.engine import RunResult
    from soloist.planning.run_estimate import RunEstimate
    from soloist.retrieval.evaluation import Evaluation
    from soloist.types import Hit
    from soloist.validation import Validation

# Colours are those of the notebook, except for half-transparent grey, which is visible on white and on black.
_STYLE = (
    "<style>"
    ".soloist table{border-collapse:collapse;margin:.5em 0;color:inherit;background:transparent}"
    ".soloist th,.soloist td{padding:.2em .7em;text-align:left;vertical-align:top;color:inherit;"
    "background:transparent;border-bottom:1px solid rgba(128,128,128,.35)}"
    ".soloist .n{text-align:right;font-variant-numeric:tabular-nums}"
    ".soloist .q{opacity:.75;white-space:pre-wrap}"
    ".soloist pre{margin:.2em 0 .8em;white-space:pre-wrap;color:inherit;background:transparent}"
    "</style>"
)
_LINE_CHARACTERS, _TEXT_LINES = 200, 4  # the browser breaks lines at the width of the cell
_VERDICTS = {"pass": "✓ pass", "fail": "✗ <b>fail</b>"}
_NUMBERS = {"nDCG@10", "R@100", "RR@10", "bytes a chunk", "weights", "reserved", "budget", "median", "longest"}


def result_html(result: RunResult) -> str:
    """A run: its models, devices and remarks, and where its files are."""
    tables = map(_table, result_tables(result))
    return _block(*tables, _lines(result_remarks(result)), _lines(result_files(result), quiet=True))


def estimate_html(plan: RunEstimate) -> str:
    """A plan: the verdict first, then the tables, and the lengths of the texts on demand."""
    parts = [_lines(estimate_verdict(plan), bold=True), _lines(estimate_head(plan))]
    for table, legend in estimate_tables(plan):
        parts += [_table(table), _lines([legend] if legend else [], quiet=True)]
    lengths = "\n\n".join("\n".join(histogram_lines(model)) for model in plan.models)
    details = f"<details><summary>lengths of the chunks</summary><pre>{escape(lengths)}</pre></details>"
    return _block(*parts, _lines(estimate_notes(plan)), details)


def evaluation_html(evaluation: Evaluation) -> str:
    """An evaluation: the systems, and the verdicts."""
    return _block(_table(evaluation_table(evaluation)), _lines(evaluation_lines(evaluation)))


def validation_html(validation: Validation) -> str:
    """A validation: the sum, the machine, and a row for each point."""
    rows = [
        f"<tr><td>{_VERDICTS.get(check.verdict, escape(check.verdict))}</td><td>{_cell(title_of(check))}"
        f'<div class="q">{_cell(check.evidence)}</div></td></tr>'
        for check in validation.checks
    ]
    head = _lines([sum_line(validation.checks)], bold=True) + _lines([machine_line(validation.evidence)])
    names = ["validation.json", "validation.md"]
    names += ["report.html"] if (validation.folder / "report.html").is_file() else []
    files = _lines([f"{validation.folder}: {', '.join(names)}"], quiet=True)
    return _block(head, f"<table>{''.join(rows)}</table>", files)


def hits_html(hits: Sequence[Hit]) -> str:
    """The hits of a search: each with its rank, score, collection, id, source and metadata, and the first lines."""
    return _block(*map(_hit, hits)) if hits else _block("no hits")


def _hit(hit: Hit) -> str:
    known = "  ".join(filter(None, (source_of(hit), metadata_line(hit))))
    text = "\n".join(text_lines(hit.text, _LINE_CHARACTERS, _TEXT_LINES))
    head = f"{hit.rank}. <b>{_cell(hit.id)}</b> {_cell(hit.collection)}, {hit.score:.4f}"
    return f'<div>{head} <span class="q">{_cell(known)}</span></div><pre>{escape(text)}</pre>'


def _block(*parts: str) -> str:
    return f'{_STYLE}<div class="soloist">{"".join(parts)}</div>'


def _table(table: Table) -> str:
    columns, rows = table
    classes = [' class="n"' if name in RIGHT_ALIGNED | _NUMBERS else "" for name in columns]
    head = "".join(f"<th{kind}>{_cell(name)}</th>" for name, kind in zip(columns, classes, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{_cell(cell)}</td>' for cell, kind in zip(row, classes, strict=True))}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _lines(lines: Iterable[str], *, bold: bool = False, quiet: bool = False) -> str:
    start, end = ("<b>", "</b>") if bold else ("", "")
    kind = ' class="q"' if quiet else ""
    return "".join(f"<div{kind}>{start}{_cell(line)}{end}</div>" for line in lines)


def _cell(text: str) -> str:
    return escape(one_line(text))


register_html_forms(
    {
        "RunResult": result_html,
        "RunEstimate": estimate_html,
        "Evaluation": evaluation_html,
        "Validation": validation_html,
        "Hits": hits_html,
    }
)
