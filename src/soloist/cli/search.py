"""`soloist search`: a question to a run, and the chunks that answer it."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.lists import numbers_by_name, split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.ranker_options import WEIGHTS_HELP, Chosen, chosen_by, with_ranker_options
from soloist.cli.rerank_options import LockDir, Rerank, RerankDepth, RerankDevices, require_model
from soloist.cli.stdin_lines import incoming_texts
from soloist.errors import ConfigError, SoloistError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from soloist.retrieval import By, OpenedRun
    from soloist.types import Hit

_AT_ONCE = 1_000  # questions that are searched together
_HITS_AT_ONCE = 100_000  # of the questions together: with more hits each, fewer questions are searched at once
_K_HELP = "How many chunks to show: at least 1. [default: 10, or all if there are fewer]"
_QUESTION_HELP = "What to look for. - reads questions from stdin, one a line, and answers each one as it arrives."
_EXPLAIN_HELP = "Say of each hit what every member of the run says of it: score, rank, and the words that it has."
_CATALOGUE_HELP = "A TOML file of your models, if those of the run are in other places on this machine."


@with_ranker_options
def search(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that soloist embed wrote.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help=_QUESTION_HELP)],
    k: Annotated[int | None, typer.Option("-k", min=1, metavar="NUMBER", help=_K_HELP)] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection", "--collections", metavar="A,B", help="Search only these collections. [default: all]"
        ),
    ] = None,
    rankers: Chosen = MappingProxyType({}),
    weights: Annotated[list[str] | None, typer.Option(metavar="A=.7,B=.3", help=WEIGHTS_HELP)] = None,
    explain: Annotated[bool, typer.Option("--explain", help=_EXPLAIN_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a question.")] = False,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help=_CATALOGUE_HELP)
    ] = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = None,
    accelerator: RerankDevices = None,
    lock_dir: LockDir = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Search a finished run with the models, prompts and fusion that made it. Exact: every chunk is scored."""
    with exit_codes(debug=debug):
        with importing():
            from soloist.reports.progress import status_line
            from soloist.retrieval import open_run

        by = chosen_by(rankers, numbers_by_name(weights))
        chosen = split("--collection", collection) or ()
        require_model(rerank, rerank_depth)
        open_now = functools.partial(
            open_run, run_dir, catalogue=catalogue, accelerator=accelerator or "auto", lock_dir=lock_dir
        )
        run = open_now()  # another folder is an error before anybody is waited for
        with status_line(sys.stderr) as show:
            asking = _Asking(
                k=k, by=by, collections=chosen, as_json=as_json, headed=question == "-", show=show, explain=explain,
                rerank=rerank, rerank_depth=rerank_depth,
            )  # fmt: skip
            if question == "-":
                asking.answer_stdin(open_now)
            else:
                asking.answer(run, [question])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """How questions are searched, and how hits are shown. `show` tells a terminal what is being done."""

    k: int | None
    by: By | None
    collections: Sequence[str]
    as_json: bool
    headed: bool
    show: Callable[[str], None]
    explain: bool = False
    rerank: str | None = None
    rerank_depth: int | None = None

    def answer_stdin(self, open_now: Callable[[], OpenedRun]) -> None:
        """Answer the questions of stdin as they come. The run is opened when the first one comes.

        Raises:
            ConfigError: stdin has no question.
        """
        run, asked = None, 0
        for questions in incoming_texts(sys.stdin, max(1, min(_AT_ONCE, _HITS_AT_ONCE // (self.k or 1)))):
            run = run or open_now()
            self.answer(run, questions, f": question {asked + 1:,}")
            asked += len(questions)
        if run is None:
            raise ConfigError("stdin has no query: give one a line, or give it as QUESTION")

    def answer(self, run: OpenedRun, questions: Sequence[str], which: str = "") -> None:
        """Print the hits of each question, and then the notices about the questions.

        A question that cannot be answered is an error once the questions before it are answered.
        """
        known = set(run.notices)
        self.show(f"searching {run.path}{which}")
        try:
            answers = run.search_all(
                questions, self.k, by=self.by, collections=self.collections, explain=self.explain,
                rerank=self.rerank, rerank_depth=self.rerank_depth, progress=self.show,
            )  # fmt: skip
        except SoloistError:
            if len(questions) == 1:
                raise
            for question in questions:
                self.answer(run, [question], which)
            return
        self.show("")
        with written_to_stdout("the hits"):
            for question, hits in zip(questions, answers, strict=True):
                _print(question, hits, self.as_json, headed=self.headed)
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
