"""`soloist search`: a question to a run, and the chunks that answer it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.embed import numbers_by_name, split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soloist.retrieval import By
    from soloist.types import Hit

_AT_ONCE = 1_000  # questions that are searched together, or fewer where they would have more hits than the next
_HITS_AT_ONCE = 100_000
_MARK = "\ufeff"  # with which editors of Windows begin a file
_CATALOGUE_HELP = "A TOML file with models of your own, where those of the run lie elsewhere on this machine."


def search(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder that soloist embed wrote.")],
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What to look for; - reads one a line from stdin.")
    ],
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
        questions = [question]
        if question == "-":
            questions = _questions()
            run = open_run(run_dir, catalogue=catalogue)  # as it is when it is searched
        at_once = max(1, min(_AT_ONCE, _HITS_AT_ONCE // (k or 1)))
        for start in range(0, len(questions), at_once):
            some = questions[start : start + at_once]
            with status_line(sys.stderr) as show:
                show(f"searching {run_dir}{_which(start, questions)}")
                found = run.search_all(some, k, by=by, collections=chosen)
            with written_to_stdout("the hits"):
                for asked, hits in zip(some, found, strict=True):
                    _print(asked, hits, as_json, headed=len(questions) > 1)
        for notice in run.notices:
            typer.echo(f"soloist: {notice}", err=True)


def _which(start: int, questions: Sequence[str]) -> str:
    return f": question {start + 1:,} of {len(questions):,}" if len(questions) > 1 else ""


def _questions() -> list[str]:
    """Each line of stdin."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments: what is no text is said of its question
    lines = (line.removeprefix(_MARK) if number == 0 else line for number, line in enumerate(sys.stdin))
    questions = [line.rstrip("\r\n") for line in lines if line.strip()]
    if not questions:
        raise ConfigError("stdin has no query: give one a line, or give it as QUESTION")
    return questions


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
            "--weights are for --rrf and --standardised, fused vectors have those of the run: give soloist embed other "
            "--weights, which fuses it anew without embedding anything"
        )
    if model is not None:
        return By(model=model)
    if rrf or standardised:
        return By(fusion="rrf" if rrf else "standardised", weights=weights)
    return By(fusion="fused") if fused else None
