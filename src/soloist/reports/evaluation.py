"""An evaluation for people: a table of systems, the verdict, and a plot. Knows rich and, for the plot, matplotlib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from soloist.broken_imports import load_optional
from soloist.errors import ConfigError, OutputError
from soloist.reports.table import Table, print_table
from soloist.reports.text import bytes_text, one_line
from soloist.retrieval.metrics import MAIN, MEASURES, Difference
from soloist.stores.atomic import atomic_path, disk_errors
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.retrieval.evaluation import Evaluation, SystemScore
    from soloist.retrieval.rankers import Kind
    from soloist.retrieval.reranking import Reranking
    from soloist.retrieval.tuning import Tuned

_COLUMNS = ("ranked by", *MEASURES, "against the best model", "seconds", "bytes a chunk")
_SECOND_STAGE = "s/question"
_PLOTS = (".png", ".svg", ".pdf")
_COLOURS: dict[Kind, tuple[str, str]] = {
    "model": ("#4c78a8", "a model"),
    "words": ("#54a24b", "words of the run"),
    "run": ("#e45756", "the run's fusion"),
    "fusion": ("#f2a34a", "another fusion"),
    "lexical": ("#9d9d9d", "words alone"),
    "reranked": ("#b279a2", "with a second stage"),
}


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the systems, the best first, then in plain words what that means."""
    print_table(console, *evaluation_table(evaluation))
    console.print()
    for line in lines(evaluation):
        console.print(Text(one_line(line)), soft_wrap=True)


def evaluation_table(evaluation: Evaluation) -> Table:
    """The systems, the best first, and those that are left out."""
    ordered = sorted(evaluation.systems, key=lambda system: -system.measures[MAIN])
    missing = [[system.name, *["-"] * len(MEASURES), "left out", "-", "-"] for system in evaluation.left_out]
    rows = [*(_row(system, evaluation.best_single) for system in ordered), *missing]
    if evaluation.reranking is None:
        return _COLUMNS, rows
    named = {evaluation.reranking.name: f"{evaluation.reranking.seconds_a_question:.3f}"}
    return (*_COLUMNS, _SECOND_STAGE), [[*row, named.get(row[0], "-")] for row in rows]


def lines(evaluation: Evaluation) -> list[str]:
    """The verdicts, what a second stage does, the tuned weights, and the notices."""
    given = (evaluation.verdict, evaluation.best_verdict)
    verdicts = list(dict.fromkeys(verdict.text for verdict in given if verdict is not None))
    tuned = [_tuned_text(evaluation.tuned)] if evaluation.tuned is not None else []
    reranked = [_reranking_text(evaluation.reranking)] if evaluation.reranking is not None else []
    left_out = [f"{system.name} is left out: {system.reason}" for system in evaluation.left_out]
    return [
        *(verdicts or ["The run has one member, so there is no ensemble to judge."]),
        *reranked,
        *tuned,
        *(f"note: {notice}" for notice in (*left_out, *evaluation.notices)),
    ]


def _reranking_text(reranking: Reranking) -> str:
    return (
        f"{reranking.model} scores the first {count_text(reranking.depth, 'chunk')} of {reranking.first} for each "
        f"question. That gives {reranking.gain.mean:+.4f} {MAIN} against {reranking.first} alone "
        f"({_interval_words(reranking.gain)}), and takes {reranking.seconds_a_question:.3f} seconds a question on "
        f"{reranking.device}."
    )


def _interval_words(gain: Difference) -> str:
    if gain.interval is None:
        return "too few different questions for an interval"
    return "95% interval {:+.4f} to {:+.4f}".format(*gain.interval)


def _tuned_text(tuned: Tuned) -> str:
    weights = ",".join(f"{name}={weight:g}" for name, weight in tuned.weights.items())
    interval = _interval_words(tuned.gain)
    return (
        f"The best weights for {tuned.ranking} on {tuned.training} of the questions are {weights}. On the other "
        f"{tuned.held_out} questions they give {tuned.ndcg:.4f} {MAIN}, {tuned.gain.mean:+.4f} against {tuned.single} "
        f"({interval})."
    )


def require_plot(path: Path) -> Any:
    """The class of figures, if a plot can be written to this path.

    Raises:
        ConfigError: matplotlib is not installed, the name does not end in a format of plots, or the path is a folder
            or below a file.
        OutputError: nothing can be written to the folder of the path.
    """
    if path.suffix.lower() not in _PLOTS:
        raise ConfigError(f"--plot is {path}: give a name that ends in .png, .svg or .pdf")
    if path.is_dir():
        raise ConfigError(f"--plot is {path}, which is a folder: give the name of a file")
    otherwise = ", or leave --plot out"
    figures = load_optional("matplotlib.figure", what="--plot", package="matplotlib", extra="eval", otherwise=otherwise)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ConfigError(f"--plot is {path}, but {folder} is a file: choose another folder")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"--plot is {path}, but nothing can be written in {folder}: choose another folder")
    return figures.Figure


def plot_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write each system's nDCG@10 with the interval of its gain as PNG, SVG or PDF. The errors are `require_plot`'s."""
    figure = require_plot(path)(figsize=(8, 0.5 * len(evaluation.systems) + 1.6), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(evaluation.systems, key=lambda system: system.measures[MAIN])
    single = next(system.measures[MAIN] for system in ordered if system.name == evaluation.best_single)
    for height, system in enumerate(ordered):
        colour, label = _COLOURS[system.kind]
        axes.plot(system.measures[MAIN], height, "o", color=colour, label=label)
        if system.gain is not None and system.gain.interval is not None:
            axes.plot([single + end for end in system.gain.interval], [height, height], color=colour, linewidth=2)
    axes.axvline(single, color=_COLOURS["model"][0], linestyle=":", linewidth=1)
    axes.set_yticks(range(len(ordered)), [system.name for system in ordered], parse_math=False)
    marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one of each kind
    figure.legend(marks.values(), marks, loc="outside upper center", ncols=len(marks), frameon=False)
    asked = count_text(evaluation.questions, "question")
    axes.set_xlabel(f"{MAIN}, {asked}; bars: 95% interval of the gain over {evaluation.best_single}", parse_math=False)
    with atomic_path(path) as temp, disk_errors(path), temp.open("wb") as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)


def _interval_text(gain: Difference) -> str:
    return "" if gain.interval is None else " [{:+.4f}, {:+.4f}]".format(*gain.interval)


def _row(system: SystemScore, single: str) -> list[str]:
    if system.name == single:
        against = "is the best member" if system.kind == "words" else "is the best model"
    elif system.gain is None:
        against = "-"
    else:
        against = f"{system.gain.mean:+.4f}{_interval_text(system.gain)}"
    seconds = f"{system.cost.seconds:,.1f}" if system.cost is not None and system.cost.seconds is not None else "-"
    size = bytes_text(system.cost.bytes_per_chunk) if system.cost is not None else "-"
    return [system.name, *(f"{system.measures[measure]:.4f}" for measure in MEASURES), against, seconds, size]
