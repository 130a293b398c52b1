"""An evaluation for people: a table of systems, the verdict, and a plot. Knows rich and, for the plot, matplotlib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from soloist.errors import ConfigError, OutputError
from soloist.extras import install_command
from soloist.reports.table import print_table
from soloist.reports.text import bytes_text, one_line
from soloist.retrieval.evaluation import Evaluation, SystemScore
from soloist.retrieval.metrics import MAIN, MEASURES, Difference
from soloist.retrieval.systems import Kind
from soloist.stores.atomic import atomic_path, disk_errors
from soloist.wording import count_text

_COLUMNS = ("ranked by", *MEASURES, "against the best model", "seconds", "bytes a chunk")
_PLOTS = (".png", ".svg", ".pdf")
_COLOURS: dict[Kind, tuple[str, str]] = {
    "model": ("#4c78a8", "a model"),
    "run": ("#e45756", "the run's fusion"),
    "fusion": ("#f2a34a", "another fusion"),
    "words": ("#9d9d9d", "words alone"),
}


def print_evaluation(found: Evaluation, console: Console) -> None:
    """The systems with the best first, then in plain words what that means."""
    ordered = sorted(found.systems, key=lambda each: -each.measures[MAIN])
    missing = [[each.name, *["-"] * len(MEASURES), "left out", "-", "-"] for each in found.left_out]
    print_table(console, _COLUMNS, [*(_row(each, found.best_single) for each in ordered), *missing])
    console.print()
    for line in lines(found):
        console.print(Text(one_line(line)), soft_wrap=True)


def lines(found: Evaluation) -> list[str]:
    """The verdicts, what tuning found, and what is worth a remark."""
    verdicts = dict.fromkeys(each.text for each in (found.verdict, found.best_verdict) if each is not None)
    said = list(verdicts) or ["The run has one model: there is no ensemble to judge."]
    if found.tuned is not None:
        weights = ",".join(f"{name}={weight:g}" for name, weight in found.tuned.weights.items())
        gain = found.tuned.gain
        interval = (
            "95% interval {:+.4f} to {:+.4f}".format(*gain.interval)
            if gain.interval is not None
            else "too few different questions for an interval"
        )
        said.append(
            f"Best weights of concat on {found.tuned.training} of the questions: {weights}. On the other "
            f"{found.tuned.held_out} they give {found.tuned.ndcg:.4f} {MAIN}, {gain.mean:+.4f} from "
            f"{found.tuned.single} ({interval})."
        )
    left_out = [f"{each.name} is left out: {each.reason}" for each in found.left_out]
    return [*said, *(f"note: {notice}" for notice in (*left_out, *found.notices))]


def require_plot(path: Path) -> Any:
    """The class of figures, where a plot can be written there.

    Raises:
        ConfigError: matplotlib is not installed, the name ends in no format that it writes, or there is a folder.
        OutputError: the folder is none, or nothing may be written there.
    """
    if path.suffix.lower() not in _PLOTS:
        raise ConfigError(f"--plot is {path}: give a name that ends in .png, .svg or .pdf")
    if path.is_dir():
        raise ConfigError(f"--plot is {path}, which is a folder: give the name of a file")
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ConfigError(f"--plot needs matplotlib: run {install_command('eval')}, or leave --plot out") from exc
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"--plot is {path}, but nothing can be written in {folder}: choose another folder")
    return Figure


def plot_evaluation(found: Evaluation, path: Path) -> None:
    """Each system's nDCG@10 with the interval of its gain, as PNG, SVG or PDF; the errors are `require_plot`'s."""
    figure = require_plot(path)(figsize=(8, 0.5 * len(found.systems) + 1.6), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(found.systems, key=lambda each: each.measures[MAIN])
    single = next(each.measures[MAIN] for each in found.systems if each.name == found.best_single)
    for place, each in enumerate(ordered):
        colour, called = _COLOURS[each.kind]
        axes.plot(each.measures[MAIN], place, "o", color=colour, label=called)
        if each.gain is not None and each.gain.interval is not None:
            axes.plot([single + end for end in each.gain.interval], [place, place], color=colour, linewidth=2)
    axes.axvline(single, color=_COLOURS["model"][0], linestyle=":", linewidth=1)
    axes.set_yticks(range(len(ordered)), [each.name for each in ordered], parse_math=False)
    marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one of each kind
    figure.legend(marks.values(), marks, loc="outside upper center", ncols=len(marks), frameon=False)
    asked = count_text(found.questions, "question")
    axes.set_xlabel(f"{MAIN}, {asked}; bars: 95% interval of the gain over {found.best_single}", parse_math=False)
    with atomic_path(path) as temp, disk_errors(path), temp.open("wb") as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)


def _interval_text(gain: Difference) -> str:
    return "" if gain.interval is None else " [{:+.4f}, {:+.4f}]".format(*gain.interval)


def _row(each: SystemScore, single: str) -> list[str]:
    if each.name == single:
        against = "is it"
    elif each.gain is None:
        against = "-"
    else:
        against = f"{each.gain.mean:+.4f}{_interval_text(each.gain)}"
    seconds = f"{each.cost.seconds:,.1f}" if each.cost is not None and each.cost.seconds is not None else "-"
    size = bytes_text(each.cost.bytes_per_chunk) if each.cost is not None else "-"
    return [each.name, *(f"{each.measures[measure]:.4f}" for measure in MEASURES), against, seconds, size]
