"""`soloist eval`: whether the ensemble is worth its cost, on the user's own questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.lists import numbers_by_name, split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.rerank_options import LockDir, Rerank, RerankDepth, RerankDevices, require_model
from soloist.errors import ConfigError

if TYPE_CHECKING:
    from soloist.retrieval.evaluation import Evaluation

_QUERIES_HELP = """Questions as in BEIR's queries.jsonl: each line is an object with _id and text. Without this
option, the questions are headings from the chunks' metadata, each of which should find its own chunk. That is weaker
evidence."""
_QRELS_HELP = """Judgements as in BEIR's qrels: each line has query-id, corpus-id and score. A corpus-id is the id of a
chunk of the run."""
_KEEP_OWN_HELP = """Count a chunk that has a question's own id as a hit of that question. [default: it does not count,
which is BEIR's rule]"""
_TUNE_HELP = """Choose weights for concat, or for all members of a run with words, on half of the questions. Say what
they are worth on the other half."""
_COLLECTIONS_HELP = "Evaluate only these collections. [default: all]"
_BM25_HELP = "Compare with BM25, a baseline without a model. It holds the words of all texts in memory."


def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that soloist embed wrote.")],
    queries: Annotated[Path | None, typer.Option(metavar="PATH", help=_QUERIES_HELP)] = None,
    qrels: Annotated[Path | None, typer.Option(metavar="PATH", help=_QRELS_HELP)] = None,
    collections: Annotated[list[str] | None, typer.Option(metavar="A,B", help=_COLLECTIONS_HELP)] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A=.7,B=.3",
            help="Weights of the members, for hybrid and for the fusions that the run does not have. "
            "[default: the run's]",
        ),
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help=_TUNE_HELP)] = False,
    bm25: Annotated[bool, typer.Option("--bm25/--no-bm25", help=_BM25_HELP)] = True,
    keep_own: Annotated[bool, typer.Option("--keep-own", help=_KEEP_OWN_HELP)] = False,
    plot: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a plot: .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="As for search.")
    ] = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = None,
    accelerator: RerankDevices = None,
    lock_dir: LockDir = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say what each model and every fusion of a run is worth on judged questions, and whether the ensemble pays.

    nDCG@10, recall at 100 and reciprocal rank at 10, the gain over the best single model with the 95% interval of a
    paired bootstrap, and beside it what encoding took and what vectors take.
    """
    with exit_codes(debug=debug):
        with importing():
            from soloist.api.runs import evaluate as evaluate_run
            from soloist.reports.evaluation import plot_evaluation, require_plot

        chosen, given = split("--collections", collections) or (), numbers_by_name(weights)
        _require_both(queries, qrels)
        require_model(rerank, rerank_depth)
        if plot is not None:
            require_plot(plot)
        evaluation = evaluate_run(
            run_dir, queries=queries, qrels=qrels, collections=chosen, weights=given, tune=tune, bm25=bm25,
            keep_own=keep_own, catalogue=catalogue, rerank=rerank, rerank_depth=rerank_depth,
            accelerator=accelerator or "auto", lock_dir=lock_dir,
        )  # fmt: skip
        _print(evaluation, as_json=as_json)
        if plot is not None:
            plot_evaluation(evaluation, plot)


def _print(evaluation: Evaluation, *, as_json: bool) -> None:
    from soloist.jsontext import json_text
    from soloist.reports.evaluation import print_evaluation
    from soloist.reports.table import open_console

    with written_to_stdout("the evaluation"):
        if as_json:
            typer.echo(json_text(evaluation.to_dict(), indent=2))
        else:
            print_evaluation(evaluation, open_console(sys.stdout))


def _require_both(queries: Path | None, qrels: Path | None) -> None:
    if (queries is None) != (qrels is None):
        given, missing = ("--queries", "--qrels") if qrels is None else ("--qrels", "--queries")
        raise ConfigError(f"{given} needs {missing} beside it: give both, or neither to ask the chunks' own headings")
