"""`soloist eval`: whether the ensemble is worth its cost, on the user's own questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.lists import numbers_by_name, split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soloist.retrieval import OpenedRun
    from soloist.retrieval.qrels import Qrels

_QUERIES_HELP = """BEIR's queries.jsonl: an object with _id and text a line. Without it, headings in the chunks'
metadata are asked, each of which should find its own chunk: weaker evidence."""
_QRELS_HELP = "BEIR's judgements, query-id, corpus-id and score a line, by the ids of the run's chunks."
_KEEP_OWN_HELP = """Count a chunk that has a question's own id as a hit of that question. [default: it does not count,
which is BEIR's rule]"""
_TUNE_HELP = "Choose weights for concat on half of the questions, and say what they are worth on the others."


def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder that soloist embed wrote.")],
    queries: Annotated[Path | None, typer.Option(metavar="PATH", help=_QUERIES_HELP)] = None,
    qrels: Annotated[Path | None, typer.Option(metavar="PATH", help=_QRELS_HELP)] = None,
    collections: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Only these. [default: all]")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="A=.7,B=.3", help="For the fusions that the run does not have. [default: the run's]"),
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help=_TUNE_HELP)] = False,
    bm25: Annotated[
        bool, typer.Option("--bm25/--no-bm25", help="BM25 as a floor; it holds all texts in memory.")
    ] = True,
    keep_own: Annotated[bool, typer.Option("--keep-own", help=_KEEP_OWN_HELP)] = False,
    plot: Annotated[Path | None, typer.Option(metavar="PATH", help="A plot as .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="As for search.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say what each model and every fusion of a run is worth on judged questions, and whether the ensemble pays.

    nDCG@10, recall at 100 and reciprocal rank at 10, the gain over the best single model with the 95% interval of a
    paired bootstrap, and beside it what encoding took and what vectors take.
    """
    with exit_codes(debug=debug):
        with importing():
            from soloist.jsontext import json_text
            from soloist.reports.evaluation import plot_evaluation, print_evaluation, require_plot
            from soloist.reports.progress import status_line
            from soloist.reports.table import open_console
            from soloist.retrieval import open_run
            from soloist.retrieval.evaluation import evaluate as evaluate_run

        chosen, given = split("--collections", collections) or (), numbers_by_name(weights)
        _require_both(queries, qrels)
        if plot is not None:
            require_plot(plot)
        run = open_run(run_dir, catalogue=catalogue)
        with status_line(sys.stderr) as show:
            show(f"reading {run_dir}")
            judged = _judged(run, queries, qrels, chosen)
            found = evaluate_run(
                run, judged, collections=chosen, weights=given, bm25=bm25, tuning=tune, keep_own=keep_own,
                progress=show,
            )  # fmt: skip
        with written_to_stdout("the evaluation"):
            if as_json:
                typer.echo(json_text(found.to_dict(), indent=2))
            else:
                print_evaluation(found, open_console(sys.stdout))
        if plot is not None:
            plot_evaluation(found, plot)


def _require_both(queries: Path | None, qrels: Path | None) -> None:
    if (queries is None) != (qrels is None):
        given, missing = ("--queries", "--qrels") if qrels is None else ("--qrels", "--queries")
        raise ConfigError(f"{given} needs {missing} beside it: give both, or neither to ask the chunks' own headings")


def _judged(run: OpenedRun, queries: Path | None, qrels: Path | None, collections: Sequence[str]) -> Qrels:
    from soloist.retrieval.probes import probes
    from soloist.retrieval.qrels import read_qrels

    if queries is not None and qrels is not None:
        return read_qrels(queries, qrels)
    return probes(chunk for place in run.row_index(collections).shards for chunk in run.chunks(*place))
