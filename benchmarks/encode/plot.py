"""The results as a picture: a bar of tokens a second for each engine. Needs matplotlib, of the extra `bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLOURS = {"soloist": "#1b6ca8"}
_OTHERS = "#b8b8b8"


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows = sorted(report["engines"], key=lambda row: (row["precision"], row["tokens_per_second"]))
    figure = Figure(figsize=(9, 0.45 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(
        [row["name"] for row in rows],
        [row["tokens_per_second"] for row in rows],
        color=[_COLOURS.get(row["adapter"], _OTHERS) for row in rows],
    )
    axes.bar_label(bars, labels=[_label(row) for row in rows], padding=4, fontsize=8)
    axes.margins(x=0.25)
    axes.set_xlabel("tokens per second, median of the rounds")
    axes.set_title(f"{report['model']}, {report['chunks']:,} chunks, {report['threads']} threads", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _label(row: Mapping[str, Any]) -> str:
    """The rate and the ratio; with what is lost, where the precision is not soloist's."""
    ratio = row["soloist_is_faster_by"]
    if not ratio:
        return f"{row['tokens_per_second']:,.0f}"
    same = row["beside"].endswith(f" {row['precision']}")
    ours = "soloist" if same else row["beside"]
    loss = "" if same else f"; lowest cosine {row['cosine']['lowest']:.4f}"
    return f"{row['tokens_per_second']:,.0f}  ({ours} is {ratio['median']:.2f} times as fast{loss})"
