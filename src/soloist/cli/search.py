"""`soloist search`: a question to a run, and the chunks that answer it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.lists import numbers_by_name, split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.stdin_lines import incoming_lines
from soloist.errors import ConfigError, SoloistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from soloist.retrieval import By, OpenedRun
    from soloist.types import Hit

_AT_ONCE = 1_000  # questions that are searched together, or fewer where they would have more hits than the next
_HITS_AT_ONCE = 100_000
_QUESTION_HELP = "What to look for; - reads one a line from stdin, and answers each as it comes."
_CATALOGUE_HELP = "A TOML file with models of your own, where those of the run lie elsewhere on this machine."


def search(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder that soloist embed wrote.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help=_QUESTION_HELP)],
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="How many chunks to show. [default: 10, or all of fewer]")
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "--collections", metavar="A,B", help="Only in these. [default: all]"),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="By this model's vectors alone.")] = None,
    fused: Annotated[bool, typer.Option("--fused", help="By the fused vectors. [default where there are any]")] = False,
    rrf: Annotated[
        bool, typer.Option("--rrf", help="By the sum of the models' reciprocal ranks, for up to 1,000 hits.")
    ] = False,
    standardised: Annotated[
        bool, typer.Option("--standardised", help="By the sum of the models' standardised cosines.")
    ] = False,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="A=.7,B=.3", help="For --rrf and --standardised. [default: the run's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a question.")] = False,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help=_CATALOGUE_HELP)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Search a finished run with the models, prompts and fusion that made it. Exact: every chunk is scored."""
    with exit_codes(debug=debug):
        with importing():
            from soloist.reports.progress import status_line
            from soloist.retrieval import open_run

        by = _by(model, fused, rrf, standardised, numbers_by_name(weights))
        chosen = split("--collection", collection) or ()
        run = open_run(run_dir, catalogue=catalogue)  # another folder is an error before anybody is waited for
        with status_line(sys.stderr) as show:
            asking = _Asking(k=k, by=by, collections=chosen, as_json=as_json, headed=question == "-", show=show)
            if question != "-":
                asking.answer(run, [question])
                return
            asked = 0
            for questions in _arriving(max(1, min(_AT_ONCE, _HITS_AT_ONCE // (k or 1)))):
                if not asked:
                    run = open_run(run_dir, catalogue=catalogue)  # as it is when it is searched
                asking.answer(run, questions, f": question {asked + 1:,}")
                asked += len(questions)
        if not asked:
            raise ConfigError("stdin has no query: give one a line, or give it as QUESTION")


def _arriving(most: int) -> Iterator[list[str]]:
    """The questions of stdin, those together that came together, up to `most` of them."""
    for lines in incoming_lines(sys.stdin):
        questions = [line for line in lines if line.strip()]
        for start in range(0, len(questions), most):
            yield questions[start : start + most]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """How questions are searched and their hits shown; `show` tells a terminal what is being done."""

    k: int | None
    by: By | None
    collections: Sequence[str]
    as_json: bool
    headed: bool
    show: Callable[[str], None]

    def answer(self, run: OpenedRun, questions: Sequence[str], which: str = "") -> None:
        """Print the hits of each question, and then what was found out about them.

        A question that cannot be answered is an error once the questions before it are answered.
        """
        known = set(run.notices)
        self.show(f"searching {run.path}{which}")
        try:
            found = run.search_all(questions, self.k, by=self.by, collections=self.collections)
        except SoloistError:
            if len(questions) == 1:
                raise
            for question in questions:
                self.answer(run, [question], which)
            return
        self.show("")
        with written_to_stdout("the hits"):
            for asked, hits in zip(questions, found, strict=True):
                _print(asked, hits, self.as_json, headed=self.headed)
        for notice in run.notices:
            if notice not in known:
                typer.echo(f"soloist: {notice}", err=True)


def _print(question: str, hits: Sequence[Hit], as_json: bool, *, headed: bool) -> None:
    from soloist.jsontext import json_text
    from soloist.reports.hits import hit_values, print_hits
    from soloist.reports.table import open_console
    from soloist.reports.text import one_line

    if as_json:
        typer.echo(json_text({"query": question, "hits": [hit_values(hit) for hit in hits]}))
        return
    if headed:
        typer.echo(f"\n{one_line(question)}\n")
    print_hits(hits, open_console(sys.stdout))


def _by(model: str | None, fused: bool, rrf: bool, standardised: bool, weights: dict[str, float] | None) -> By | None:
    from soloist.retrieval import By

    chosen = [
        name
        for name, given in (("--model", model), ("--fused", fused), ("--rrf", rrf), ("--standardised", standardised))
        if given
    ]
    if len(chosen) > 1:
        raise ConfigError(f"{chosen[0]} and {chosen[1]} are two ways to rank: give one of them")
    if weights and not (rrf or standardised):
        raise ConfigError(
            "--weights needs --rrf or --standardised, because fused vectors have the weights of the run: to change "
            "those, run soloist embed with other --weights, which fuses again and embeds nothing"
        )
    if model is not None:
        return By(model=model)
    if rrf or standardised:
        return By(fusion="rrf" if rrf else "standardised", weights=weights)
    return By(fusion="fused") if fused else None
