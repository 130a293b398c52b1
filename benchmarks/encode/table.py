"""The results as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from benchmarks.encode.engines import IN_MEMORY
from benchmarks.machine import kernel_warnings

_WHY_CHARACTERS = 160

_HEAD = (
    "engine", "batch", "tokens/s", "soloist is faster by", "padding", "peak RSS", "cosine, lowest", "cosine, mean",
    "of the roof",
)  # fmt: skip
_STATIC_LEGEND = (
    f"{IN_MEMORY} computes what a run computes, from texts in memory to vectors in memory, as the others do. The row "
    "soloist is a whole run, which embeds while it reads its files, and writes the vectors. All engines load the model "
    "again before each round, so that no tokenizer has seen the texts."
)


def markdown(report: Mapping[str, Any]) -> str:
    """A page: what was measured on what, the table, and what is not in it."""
    lines = [_title(report), "", *_table(report["engines"]), "", *_notes(report), *_legend(report)]
    return "\n".join(lines) + "\n"


def _notes(report: Mapping[str, Any]) -> list[str]:
    return [*_roofs(report), *_kernels(report), *_absent(report)]


def _title(report: Mapping[str, Any]) -> str:
    hardware, versions = report["hardware"], report["versions"]
    return (
        f"{report['model']}, {report['chunks']:,} chunks of {report['source']}, {report['tokens']:,} tokens "
        f"(median {report['tokens_a_chunk']['median']:g} a chunk); {hardware['processor']}, {hardware['cores']} cores, "
        f"{report['threads']} threads, on {', '.join(report['devices'])}; {report['rounds']} rounds in turn after a "
        f"warm-up; torch {versions.get('torch', 'unknown')}, commit {report['commit']}."
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [_HEAD, ("---",) * len(_HEAD), *map(_cells, rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["name"] + _inside(row),
        str(row["batch_size"]),
        f"{row['tokens_per_second']:,.0f}",
        _faster(row),
        _percent(row["padding_share"]),
        f"{row['peak_rss_bytes'] / 1e6:,.0f} MB",
        f"{row['cosine']['lowest']:.7f}",
        f"{row['cosine']['mean']:.7f}",
        _percent(row["share_of_roof"]["median"] if row["share_of_roof"] else None),
    )


def _faster(row: Mapping[str, Any]) -> str:
    """The ratio; with soloist's precision where it is another than the row's."""
    if row["beside"] is None:
        return ""
    another = "" if row["beside"].endswith(f" {row['precision']}") else f", beside {row['beside']}"
    return _spread(row["soloist_is_faster_by"], "{:.2f}") + another


def _inside(row: Mapping[str, Any]) -> str:
    inside = row["computes_in"]
    return f" (computes in {inside})" if inside and inside != row["precision"] else ""


def _roofs(report: Mapping[str, Any]) -> list[str]:
    return [
        f"Roof in {precision}: {roof['flops_per_second']['median'] / 1e9:,.0f} GFLOP/s at the model's shapes, by "
        f"{roof['library']}{_slower(roof)}. The texts need {roof['flops'] / 1e9:,.0f} GFLOP without padding."
        for precision, roof in report["roofs"].items()
    ]


def _slower(roof: Mapping[str, Any]) -> str:
    others = [f"{name}: {rate / 1e9:,.0f}" for name, rate in roof["rates"].items() if name != roof["library"]]
    return f" ({'; '.join(others)})" if others else ""


def _kernels(report: Mapping[str, Any]) -> list[str]:
    """What computed, by environment: engines with the same libraries are on one line; then what may hold them back."""
    names: dict[str, dict[str, None]] = {}
    for row in report["engines"]:
        names.setdefault(", ".join(row["kernels"]) or "none that can be seen", {})[row["adapter"]] = None
    lines = [f"Kernels of {', '.join(adapters)}: {kernels}." for kernels, adapters in names.items()]
    return [*lines, *(f"Warning: {each}." for each in kernel_warnings(report["hardware"]["kernel_variables"]))]


def _absent(report: Mapping[str, Any]) -> list[str]:
    """What was not measured, and why. The report itself has all of a long error."""
    whys = {name: shorten(why, _WHY_CHARACTERS, placeholder=" ...") for name, why in report["absent"].items()}
    return [f"Not measured: {name}: {why}" for name, why in whys.items()]


def _legend(report: Mapping[str, Any]) -> list[str]:
    is_static = any(row["adapter"] == IN_MEMORY for row in report["engines"])
    return [
        "",
        *((_STATIC_LEGEND, "") if is_static else ()),
        "soloist's seconds are its report's: tokenizing, encoding and writing the vectors. The others' are those of "
        "their call, which writes nothing. Loading is in neither. The ratio is the median of the rounds' own ratios, "
        "with the lowest and the highest, in the same precision. A row in int8 stands beside soloist in bfloat16, and "
        f"its lowest cosine says what it loses. Cosines are each row's with {report['reference']}.",
    ]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _spread(values: Mapping[str, float] | None, form: str) -> str:
    if values is None:
        return "unknown"
    low, high = form.format(values["lowest"]), form.format(values["highest"])
    return f"{form.format(values['median'])} ({low} to {high})"
