"""What Python does with a finished run: evaluate it, export it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from soloist.api.showing import shown_line
from soloist.errors import ConfigError
from soloist.exports import export_run
from soloist.exports.target import BATCH_ROWS, DEFAULT_TABLE
from soloist.reports.evaluation import plot_evaluation, require_plot
from soloist.retrieval.evaluation import Evaluation
from soloist.retrieval.evaluation import evaluate as evaluate_run
from soloist.retrieval.opened import OpenedRun, open_run
from soloist.retrieval.probes import probes
from soloist.retrieval.qrels import Qrels, read_qrels
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.exports.report import ExportReport

__all__ = ["evaluate", "export"]


def evaluate(
    run: OpenedRun | str | Path,
    *,
    queries: str | Path | None = None,
    qrels: str | Path | None = None,
    collections: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    tune: bool = False,
    bm25: bool = True,
    keep_own: bool = False,
    plot: str | Path | None = None,
    catalogue: str | Path | None = None,
    rerank: str | Path | None = None,
    rerank_depth: int | None = None,
    accelerator: str = "auto",
    lock_dir: str | Path | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Say what each model and every fusion of a run is worth on judged questions, and whether the ensemble pays.

        soloist.evaluate("run", queries="queries.jsonl", qrels="qrels.tsv")

    `run` is a run folder, or what `open_run` gave. `queries` and `qrels` are files as BEIR has them: each line of
    `queries` is an object with `_id` and `text`, each line of `qrels` has query-id, corpus-id and score. Without these
    files, the questions are headings of the chunks, which is weaker evidence.

    Args:
        weights: of the members, for `hybrid` and for the fusions that the run does not have.
        tune: choose weights on half of the questions, and judge them on the other half: of `concat`, or of all
            members where the run has words or sparse vectors.
        bm25: compare with BM25, which holds the words of all texts in memory.
        keep_own: count a chunk that has a question's own id as a hit of that question.
        plot: write a plot there: .png, .svg or .pdf.
        catalogue: a file of your models, where those of the run are in other places now.
        rerank: a cross-encoder that reranks what a search of the run ranks by.
        rerank_depth: how many chunks of a question it scores; 100 without this.
        accelerator: where it computes. On devices it has a lease, whose locks are in `lock_dir`. A run that is open
            already has these two from `open_run`.
        progress: False shows no progress.

    Raises:
        SoloistError: the run, the files or a model cannot be used, or a library is not installed.
    """
    if (queries is None) != (qrels is None):
        given, missing = ("queries", "qrels") if qrels is None else ("qrels", "queries")
        raise ConfigError(f"{given} needs {missing} beside it: give both, or neither to ask the chunks' own headings")
    if plot is not None:
        require_plot(Path(plot))
    opened = run
    if not isinstance(opened, OpenedRun):
        opened = open_run(opened, catalogue=catalogue, accelerator=accelerator, lock_dir=lock_dir)
    with shown_line(progress) as show:
        show(f"reading {opened.path}")
        found = evaluate_run(
            opened, _questions(opened, queries, qrels, collections), collections=collections, weights=weights,
            bm25=bm25, tuning=tune, keep_own=keep_own, rerank=rerank, rerank_depth=rerank_depth, progress=show,
        )  # fmt: skip
    if plot is not None:
        plot_evaluation(found, Path(plot))
    return found


def _questions(
    run: OpenedRun, queries: str | Path | None, qrels: str | Path | None, collections: Sequence[str]
) -> Qrels:
    if queries is not None and qrels is not None:
        return read_qrels(Path(queries), Path(qrels))
    return probes(run.chunks(collections))


def export(
    run: OpenedRun | str | Path,
    to: str,
    *,
    out: str | Path | None = None,
    url: str | None = None,
    vectors: str | None = None,
    collections: Sequence[str] = (),
    table: str = DEFAULT_TABLE,
    batch_rows: int = BATCH_ROWS,
    take_over: bool = False,
    with_models: bool = False,
    catalogue: str | Path | None = None,
    progress: bool | None = None,
) -> ExportReport:
    """Export a finished run to files or to a store, or bring what was exported up to date; see `exports.export_run`.

    soloist.export("run", "parquet", out="vectors")

    `run` is a run folder, or what `open_run` gave. `progress=False` shows no progress.

    Raises:
        SoloistError: as `exports.export_run`.
    """
    with shown_line(progress) as show:
        return export_run(
            run.path if isinstance(run, OpenedRun) else run, to, out=out, url=url, vectors=vectors,
            collections=collections, table=table, batch_rows=batch_rows, take_over=take_over,
            with_models=with_models, catalogue=catalogue,
            progress=lambda done, rows: show(f"exporting: {done:,} of {count_text(rows, 'row')}"),
        )  # fmt: skip
