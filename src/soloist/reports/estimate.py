"""A foretold run on a terminal. Knows session plans and rich; prints to the console that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from soloist.reports.table import Table, print_table
from soloist.reports.text import bytes_text, clock_text, compact_text, one_line
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.planning.run_estimate import BatchEstimate, ModelEstimate, RunEstimate, SharedDisk, WordsEstimate

_TOKEN_COLUMNS = ("model", "max tokens", "tokens", "median", "longest", "truncated", "padded")
_MEMORY_COLUMNS = ("model", "dtype", "weights", "peak", "reserved", "budget", "exclusive", "standard", "limit")
_MEMORY_LEGEND = (
    "budget: padded tokens in a full batch; exclusive, standard: rows of the median length (of the longest) in a full "
    "batch of that mode; limit: compute where more rows are not faster, memory where they do not fit"
)
_LIMITS = {"saturation": "compute", "memory": "memory"}
_COST_LEGEND = (
    "download: none where the weights are on this machine; host memory: none where staging maps the weights from their "
    "file"
)
_COST_COLUMNS = ("model", "time", "basis", "download", "host memory", "vectors")
_BAR_WIDTH = 40


def print_estimate(plan: RunEstimate, console: Console) -> None:
    """The machine, three tables, the histograms, what to know of the figures, and the verdict."""
    for line in estimate_head(plan):
        console.print(Text(one_line(line)), soft_wrap=True)
    for (columns, rows), legend in estimate_tables(plan):
        console.print()
        print_table(console, columns, rows)
        if legend:
            console.print(Text(legend), soft_wrap=True)
    for model in plan.models:
        console.print()
        for line in histogram_lines(model):
            console.print(Text(line), soft_wrap=True)
    console.print()
    for line in (*estimate_notes(plan), *estimate_verdict(plan)):
        console.print(Text(one_line(line)), soft_wrap=True)


def estimate_tables(plan: RunEstimate) -> list[tuple[Table, str]]:
    """The tables of tokens, memory and cost, with a legend for each; some legends are empty."""
    parts = (
        (_TOKEN_COLUMNS, _token_row, ""),
        (_MEMORY_COLUMNS, _memory_row, _MEMORY_LEGEND),
        (_COST_COLUMNS, _cost_row, _COST_LEGEND),
    )
    if not plan.models:
        return []
    return [((columns, [row(model) for model in plan.models]), legend) for columns, row, legend in parts]


def estimate_notes(plan: RunEstimate) -> list[str]:
    """Sentences about the figures, and the sums."""
    return [*plan.notes, *map(_words, plan.words), *([_budgets(plan)] if plan.models else []), *_totals(plan)]


def estimate_head(plan: RunEstimate) -> list[str]:
    """The chunks, and the machine."""
    repeated = f", {plan.repeated:,} of them repeat a text" if plan.repeated else ""
    skipped = f", {plan.skipped:,} skipped" if plan.skipped else ""
    each = " each" if plan.devices > 1 else ""
    return [
        f"{count_text(plan.chunks, 'chunk')}{repeated}{skipped}, {bytes_text(plan.text_bytes)} of text",
        f"{_nodes(plan)}{count_text(plan.devices, 'device')}: {plan.card.device_name}, "
        f"{bytes_text(plan.card.total_bytes)}{each}, of which {bytes_text(plan.limit_bytes)} may be used",
    ]


def _nodes(plan: RunEstimate) -> str:
    return f"{plan.nodes:,} nodes, each with " if plan.nodes > 1 else ""


def _token_row(model: ModelEstimate) -> list[str]:
    share = model.truncated_rows / model.rows if model.rows else 0.0
    return [
        model.name,
        f"{model.max_tokens:,}" if model.max_tokens is not None else "any",
        ("~" if model.lengths_estimated else "") + compact_text(model.tokens),
        f"{model.median_length:,}",
        f"{model.longest_length:,}",
        f"{share:.1%}",
        f"{model.padding_share:.1%}",
    ]


def _memory_row(model: ModelEstimate) -> list[str]:
    return [
        model.name,
        model.dtype,
        bytes_text(model.weights_bytes),
        bytes_text(model.peak_bytes),
        bytes_text(model.reserved_bytes),
        f"{model.token_budget:,}",
        _rows(model.exclusive),
        _rows(model.standard),
        _LIMITS.get(model.exclusive.limited_by, model.exclusive.limited_by),
    ]


def _rows(batches: BatchEstimate) -> str:
    """Rows of the median and, in brackets, of the longest length in a full batch."""
    return f"{batches.median_rows:,} ({batches.longest_rows:,})" if batches.fits else "none fits"


def _cost_row(model: ModelEstimate) -> list[str]:
    return [
        model.name,
        clock_text(model.seconds) if model.seconds is not None else "unknown",
        model.basis,
        "unknown"
        if model.download_bytes is None
        else bytes_text(model.download_bytes)
        if model.download_bytes
        else "none",
        bytes_text(model.host_bytes) if model.host_bytes else "none",
        bytes_text(model.vectors_bytes),
    ]


def histogram_lines(model: ModelEstimate) -> list[str]:
    """How many chunks there are of which length, as bars of characters."""
    most = max(model.histogram.values(), default=1)
    lines = [f"{one_line(model.name)}: chunks by tokens, before truncation"]
    for edge, rows in model.histogram.items():
        bar = "#" * max(1, round(_BAR_WIDTH * rows / most))
        lines.append(f"  up to {edge:>7,}  {rows:>9,}  {bar}")
    return lines


def _words(member: WordsEstimate) -> str:
    """A member that is words, which needs no device."""
    return (
        f"{member.name}: words of {count_text(member.rows, 'text')}, language {member.language}, no device, "
        f"{clock_text(member.seconds)}, {bytes_text(member.disk_bytes)}"
    )


def _budgets(plan: RunEstimate) -> str:
    """Where the budgets come from."""
    origins = {"given": "as given", "calibrated": "as calibrated on this machine", "table": "from the table"}
    parts = [f"{model.name} {model.token_budget:,} {origins[model.budget_source]}" for model in plan.models]
    return f"token budgets: {', '.join(parts)}"


def _totals(plan: RunEstimate) -> list[str]:
    time = "unknown" if plan.seconds is None else clock_text(plan.seconds)
    fused = f", {bytes_text(plan.fused_bytes)} of it fused" if plan.fused_bytes else ""
    return [
        f"disk: {bytes_text(plan.disk_bytes)}{fused}; host memory for staging: {bytes_text(plan.host_bytes)}",
        f"time: {time}, staging included",
        *([_shared_disk(plan.shared_disk)] if plan.shared_disk is not None else []),
    ]


def _shared_disk(disk: SharedDisk) -> str:
    written, read = (bytes_text(int(rate)) for rate in (disk.written_bytes_per_second, disk.read_bytes_per_second))
    return f"shared folder: {written} a second are written and {read} read while the nodes encode"


def estimate_verdict(plan: RunEstimate) -> list[str]:
    """Whether the run fits, else why not."""
    if plan.fits:
        session = f" into a session of {clock_text(plan.session_seconds)}" if plan.session_seconds else ""
        return [f"fits{session}"]
    return [*(f"does not fit: {each}" for each in plan.problems), *(f"unknown: {each}" for each in plan.unknowns)]
