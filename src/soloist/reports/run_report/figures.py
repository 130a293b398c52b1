"""The figures of a report: facts in, marks on a canvas. What stands for a fact has the `gid` MARK.

If there are many points, they are joined (`thinning`). If there are many devices, models or bars, only the first are
drawn. The section of the figure says in words what is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soloist.reports.run_report.canvas import MARK, NARROW, Canvas, role, series, svg
from soloist.reports.run_report.thinning import (
    BARS,
    DEVICES,
    LEASES,
    MODELS,
    SHAPES,
    evenly,
    thin_memory,
    thin_rates,
)
from soloist.reports.run_report.values import Lease, MemoryPoint, RunFacts, SystemFacts, TokenLengths
from soloist.reports.text import bytes_text

_MARKERS = "osD^vPX*"
_KINDS = {"model": 0, "run": 1, "fusion": 2, "lexical": 3}
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_TIMES = ((7200.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
# If an axis reached to a capacity or a limit beyond this, the data below would be too small to see.
_TIMES_THE_DATA = 8
_TIMES_THE_SLOWEST = 30
_SECONDS = "seconds"

Runs = Sequence[RunFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """How a figure is drawn, and how high it is. All runs of a page share the axes of a figure."""

    draw: Callable[[Canvas, RunFacts, Runs], None]
    height: Callable[[RunFacts], int]


def figure(name: str, prefix: str, alt: str, width: int, facts: RunFacts, runs: Runs) -> str:
    """The figure of a section of one of the runs, as an SVG element; `prefix` begins its ids."""
    drawing = _DRAWINGS[name]
    height = max(drawing.height(run) for run in runs) + (30 if width == NARROW else 0)
    return svg(f"{prefix}-{name}", alt, width, height, lambda canvas: drawing.draw(canvas, facts, runs))


def _colours(runs: Runs) -> dict[str, int]:
    """The number of each model's series, the same in all figures and for all runs of a page."""
    named = [name for facts in runs for name in (*facts.names, *(work.model for work in facts.work))]
    return {name: number for number, name in enumerate(dict.fromkeys(named))}


def _colour(numbers: Mapping[str, int], models: Sequence[str]) -> str:
    return series(numbers.get(models[0], 0)) if len(models) == 1 else role("muted")


def _time_scale(runs: Runs) -> tuple[float, str]:
    longest = max(run.seconds for run in runs)
    return next((scale, unit) for least, scale, unit in _TIMES if longest >= least)


def _time_axis(axes: Any, facts: RunFacts, runs: Runs) -> None:
    """The time of the longest run, with a line where a session of this one began."""
    scale, unit = _time_scale(runs)
    for session in facts.sessions[1:LEASES]:
        axes.axvline(session.begins / scale, color=role("muted"), linestyle="--", linewidth=1)
    axes.set_xlim(0, max(run.seconds for run in runs) / scale * 1.01 or 1)
    axes.set_xlabel(f"{unit} of work")


def _leases(canvas: Canvas, facts: RunFacts, runs: Runs) -> None:
    (axes,), (scale, _) = canvas.axes(), _time_scale(runs)
    devices, numbers = facts.devices[:DEVICES], _colours(runs)
    handles: dict[str, Any] = {}
    for lease in facts.leases[:LEASES]:
        names = ", ".join(lease.models) if len(lease.models) == 1 else f"{len(lease.models)} models"
        begins, ends = lease.begins / scale, _ends(facts, lease) / scale
        for row in (devices.index(device) for device in lease.devices if device in devices):
            colour = _colour(numbers, lease.models)
            handles[names] = axes.broken_barh(
                [(begins, ends - begins)], (row - 0.35, 0.7), facecolor=colour, edgecolor=colour, gid=MARK
            )
    for split in facts.splits:
        if split.device in devices:
            axes.plot(split.at / scale, devices.index(split.device), "x", color=role("ink"), gid="split")
    _time_axis(axes, facts, runs)
    _rows(canvas, axes, devices)
    canvas.legend(handles)


def _ends(facts: RunFacts, lease: Lease) -> float:
    """The end of a lease, or else the end of its session."""
    session = next((item for item in facts.sessions if item.number == lease.session), None)
    return lease.ends if lease.ends is not None else (session.ends if session else lease.begins)


def _rows(canvas: Canvas, axes: Any, names: Sequence[str]) -> None:
    """A row for each name, the first on top."""
    axes.set_yticks(range(len(names)), [canvas.name(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _memory(canvas: Canvas, facts: RunFacts, runs: Runs) -> None:
    devices = facts.devices[:DEVICES]
    every, (scale, _) = canvas.axes(len(devices)), _time_scale(runs)
    points, _ = thin_memory({device: facts.memory.get(device, ()) for device in devices})
    for device, axes in zip(devices, every, strict=True):
        leases = [lease for lease in facts.leases if device in lease.devices][:LEASES]
        _memory_of(axes, device, points[device], leases, facts, scale)
        axes.set_title(canvas.name(device))
        _time_axis(axes, facts, runs)
        axes.set_xlabel("" if axes is not every[-1] else axes.get_xlabel())


def _memory_of(
    axes: Any, device: str, points: Sequence[MemoryPoint], leases: Sequence[Lease], facts: RunFacts, scale: float
) -> None:
    used = [point.peak_bytes for point in points]
    used += [size for lease in leases for size in (lease.predicted_bytes, lease.peak_bytes.get(device)) if size]
    capacity, highest = max((lease.total_bytes.get(device, 0) for lease in leases), default=0), max(used, default=0)
    size, unit = next((size, unit) for size, unit in _BYTES if highest >= size or size == 1)
    times = [point.at / scale for point in points]
    taken = {"-": [each.allocated_bytes for each in points], ":": [each.peak_bytes for each in points]}
    for style, sizes in taken.items() if points else ():
        # A point is at the end of its shard, and shows the memory until then.
        axes.step(times, [each / size for each in sizes], where="pre", color=series(0), linestyle=style, gid=MARK)
    for lease in leases:
        peaks = ((lease.peak_bytes.get(device), series(0), ":"), (lease.predicted_bytes, series(1), "--"))
        for peak, colour, style in peaks:
            if peak is not None:
                ends = (lease.begins / scale, _ends(facts, lease) / scale)
                axes.hlines(peak / size, *ends, color=colour, linestyle=style, gid=MARK)
    _limit(axes, capacity / size, highest / size, f"capacity {bytes_text(capacity)}")
    axes.set_ylabel(unit)


def _limit(axes: Any, limit: float, highest: float, text: str) -> None:
    """A line at a limit, or only words if the limit is far beyond the data."""
    top = highest * 1.15 or 1.0
    if 0 < limit <= highest * _TIMES_THE_DATA:
        axes.axhline(limit, color=role("ink"), linewidth=1, gid="limit")
        top = max(top, limit * 1.15)
    elif limit:
        text += ", beyond the axis"
    axes.set_ylim(0, top)
    if limit:
        axes.annotate(text, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=11)


def _rates(canvas: Canvas, facts: RunFacts, runs: Runs) -> None:
    (axes,), (scale, _) = canvas.axes(), _time_scale(runs)
    rates, _ = thin_rates(facts.rates)
    handles: dict[str, Any] = {}
    for name, number in _colours(runs).items():
        own = [rate for rate in rates if rate.model == name]
        if own:
            (handles[name],) = axes.plot(
                [rate.at / scale for rate in own], [rate.tokens_per_second for rate in own],
                _MARKERS[number % len(_MARKERS)], color=series(number), markersize=5, gid=MARK,
            )  # fmt: skip
    _rate_axis(axes, [rate.tokens_per_second for run in runs for rate in thin_rates(run.rates)[0]])
    _time_axis(axes, facts, runs)
    canvas.legend(handles)


def _rate_axis(axes: Any, rates: Sequence[float]) -> None:
    """An axis for all rates. It is logarithmic if the slowest rate would otherwise look like 0."""
    if max(rates) > _TIMES_THE_SLOWEST * min(rates):
        axes.set_yscale("log")
        axes.set_ylim(min(rates) / 1.3, max(rates) * 1.3)
        axes.set_ylabel("tokens/s, logarithmic")
    else:
        axes.set_ylim(0, max(rates) * 1.05)
        axes.set_ylabel("tokens/s")
    axes.yaxis.set_major_formatter(_compact)


def _compact(value: float, _: object = None) -> str:
    """A number at an axis: `1,200`, `12k`, `3.5M`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.3g}M"
    return f"{value / 1e3:,.3g}k" if abs(value) >= 1e4 else f"{value:,.4g}"


def _lengths(canvas: Canvas, facts: RunFacts, runs: Runs) -> None:
    shown = facts.lengths[:MODELS]
    numbers, limits = _colours(runs), {model.name: model.max_tokens for model in facts.models}
    axes_of = [axes for row in canvas.figure.subplots(len(shown), 1, squeeze=False) for axes in row]
    for found, axes in zip(shown, axes_of, strict=True):
        _lengths_of(axes, found, series(numbers.get(found.model, 0)), limits.get(found.model))
        axes.set_title(canvas.name(found.model))
        axes.set_ylabel("texts")
    axes_of[-1].set_xlabel("tokens")


def _lengths_of(axes: Any, found: TokenLengths, colour: str, limit: int | None) -> None:
    width = found.edges[1] - found.edges[0]
    whole = [count - cut for count, cut in zip(found.counts, found.cut_counts, strict=True)]
    lefts = found.edges[:-1]
    axes.bar(lefts, whole, width * 0.92, align="edge", color=colour, gid=MARK)
    if found.texts_cut:
        axes.bar(
            lefts, found.cut_counts, width * 0.92, bottom=whole, align="edge", facecolor="none", edgecolor=colour,
            hatch="////", gid=MARK,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(_compact)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(left=0)
    if limit and limit <= found.edges[-1] * 2:
        axes.axvline(limit, color=role("ink"), linestyle="--", linewidth=1, gid="limit")
    elif limit:
        axes.annotate(f"limit {limit:,}, beyond the axis", (1, 1), xycoords="axes fraction", ha="right", va="bottom",
                      fontsize=11)  # fmt: skip


def _batches(canvas: Canvas, facts: RunFacts, runs: Runs) -> None:
    shown = [(name, shapes) for name, shapes in facts.batches.items() if shapes][:MODELS]
    budgets, numbers = {model.name: model.token_budget for model in facts.models}, _colours(runs)
    axes_of = [axes for row in canvas.figure.subplots(len(shown), 1, squeeze=False) for axes in row]
    for (name, shapes), axes in zip(shown, axes_of, strict=True):
        drawn = shapes[: SHAPES // min(MODELS, len(facts.batches))]
        most = max(shape.count for shape in drawn)
        axes.scatter(
            [shape.padded_length for shape in drawn], [shape.rows for shape in drawn],
            s=[12 + 90 * shape.count / most for shape in drawn], color=series(numbers.get(name, 0)), alpha=0.6,
            gid=MARK,
        )  # fmt: skip
        _budget(axes, budgets.get(name, 0), max(shape.rows for shape in drawn))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(canvas.name(name))
        axes.set_ylabel("rows")
    axes_of[-1].set_xlabel("padded length in tokens")


def _budget(axes: Any, tokens: int, most_rows: int) -> None:
    """The most rows of each length that a budget of tokens allows, where that is near the batches."""
    axes.set_ylim(0, most_rows * 1.2 + 1)
    axes.set_xlim(left=0)
    longest = axes.get_xlim()[1]
    if tokens and tokens / longest < most_rows * 1.2 + 1:
        lengths = evenly([1 + longest * step / 100 for step in range(101)], 101)
        axes.plot(lengths, [tokens / length for length in lengths], color=role("muted"), linewidth=1, gid="budget")
        axes.set_xlim(0, longest)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A row of bars: a name, and its parts with their sizes and colours."""

    name: str
    parts: Sequence[tuple[str, float, str, str]]  # name, size, colour, hatch

    @property
    def size(self) -> float:
        """Where the row ends."""
        return sum(size for _, size, _, _ in self.parts)


@dataclass(frozen=True, slots=True)
class _Bars:
    """A drawing of rows of bars. The bars of all runs decide how long the axis is."""

    of: Callable[[RunFacts, Runs], Iterable[_Bar]]
    label: str
    has_legend: bool = True

    def __call__(self, canvas: Canvas, facts: RunFacts, runs: Runs) -> None:
        """Draw the rows of one of the runs."""
        (axes,), bars = canvas.axes(), list(self.of(facts, runs))[:BARS]
        handles: dict[str, Any] = {}
        for row, bar in enumerate(bars):
            _draw_bar(axes, row, bar, handles)
        _grey_several_coloured(handles, bars)
        _rows(canvas, axes, [bar.name for bar in bars])
        axes.set_xlim(0, max(bar.size for run in runs for bar in self.of(run, runs)) * 1.03 or 1)
        axes.set_xlabel(self.label)
        axes.xaxis.set_major_formatter(_compact)
        axes.locator_params(axis="x", nbins=4 if canvas.width == NARROW else 8, integer=self.label != _SECONDS)
        canvas.legend(handles if self.has_legend else {})


def _draw_bar(axes: Any, row: int, bar: _Bar, handles: dict[str, Any]) -> None:
    left = 0.0
    for name, size, colour, hatch in bar.parts:
        if size:
            drawn = axes.barh(
                row, size, 0.7, left=left, facecolor=colour, edgecolor=colour if not hatch else role("ink"),
                hatch=hatch or None, linewidth=0.5, gid=MARK,
            )  # fmt: skip
            handles.setdefault(name, drawn)
            left += size


def _grey_several_coloured(handles: dict[str, Any], bars: Iterable[_Bar]) -> None:
    """A part that has another colour in each row is grey in the legend: any colour would be that of one row."""
    from matplotlib.patches import Patch

    colours: dict[str, set[str]] = {}
    for bar in bars:
        for name, _, colour, _ in bar.parts:
            colours.setdefault(name, set()).add(colour)
    for name in handles:
        if len(colours[name]) > 1:
            handles[name] = Patch(facecolor=role("muted"))


def _splits(facts: RunFacts, runs: Runs) -> Iterable[_Bar]:
    numbers = _colours(runs)
    for (model, device), count in facts.split_counts.items():
        yield _Bar(f"{model} on {device}", [(model, count, series(numbers.get(model, 0)), "")])


def _padding(facts: RunFacts, runs: Runs) -> Iterable[_Bar]:
    for name, number in _colours(runs).items():
        own = [work for work in facts.work if work.model == name]
        tokens, padded = sum(work.tokens for work in own), sum(work.padded_tokens for work in own)
        if padded:
            extra = max(0, padded - tokens)
            yield _Bar(name, [("texts", tokens, series(number), ""), ("padding", extra, role("grid"), "////")])


def _work(facts: RunFacts, runs: Runs) -> Iterable[_Bar]:
    has_several = len(facts.sessions) > 1
    for part in facts.work:
        yield _Bar(
            f"{part.session}: {part.model}" if has_several else part.model,
            [
                ("embedded", part.embedded, series(0), ""), ("repeated", part.repeated, series(1), ""),
                ("reused", part.reused, series(2), ""), ("from other runs", part.from_others, series(3), ""),
                ("kept", part.kept, role("muted"), ""),
            ],
        )  # fmt: skip


def _phases(facts: RunFacts, runs: Runs) -> Iterable[_Bar]:
    numbers = _colours(runs)
    for phase in facts.phases:
        shared = phase.seconds - sum(phase.by_model.values())
        parts = [(name, seconds, series(numbers.get(name, 0)), "") for name, seconds in phase.by_model.items()]
        yield _Bar(phase.name, [*parts, ("no single model", max(0.0, shared), role("muted"), "")])


def _evaluation(canvas: Canvas, facts: RunFacts, runs: Runs) -> None:
    (axes,) = canvas.axes()
    assert facts.evaluation is not None
    systems = _ranked(facts.evaluation.systems)
    best = next((_ndcg(item) for item in systems if item.name == facts.evaluation.best_single), None)
    handles: dict[str, Any] = {}
    for row, system in enumerate(systems):
        colour = series(_KINDS.get(system.kind, 4))
        (handles[system.kind],) = axes.plot(_ndcg(system), row, "o", color=colour, gid=MARK)
        if best is not None and system.low is not None and system.high is not None:
            axes.hlines(row, best + system.low, best + system.high, color=colour, linewidth=2, gid=MARK)
    if best is not None:
        axes.axvline(best, color=role("muted"), linestyle=":")
    _rows(canvas, axes, [system.name for system in systems])
    axes.set_xlabel("nDCG@10")
    canvas.legend(handles)


def _ndcg(system: SystemFacts) -> float:
    return system.measures.get("nDCG@10", math.nan)


def _ranked(systems: Iterable[SystemFacts]) -> list[SystemFacts]:
    return sorted(systems, key=lambda system: -system.measures.get("nDCG@10", 0.0))[:BARS]


def _by_rows(count: Callable[[RunFacts], int], most: int = BARS, row: int = 26) -> Callable[[RunFacts], int]:
    """The height of bars, with room for axis and legend."""
    return lambda facts: 100 + row * min(most, max(1, count(facts)))


_DRAWINGS: dict[str, _Drawing] = {
    "leases": _Drawing(draw=_leases, height=_by_rows(lambda facts: len(facts.devices), DEVICES, 34)),
    "memory": _Drawing(draw=_memory, height=_by_rows(lambda facts: len(facts.devices), DEVICES, 130)),
    "splits": _Drawing(
        draw=_Bars(_splits, "splits", has_legend=False), height=_by_rows(lambda facts: len(facts.split_counts))
    ),
    "rates": _Drawing(draw=_rates, height=lambda facts: 280),
    "lengths": _Drawing(draw=_lengths, height=_by_rows(lambda facts: len(facts.lengths), MODELS, 150)),
    "batches": _Drawing(draw=_batches, height=_by_rows(lambda facts: len(facts.batches), MODELS, 150)),
    "padding": _Drawing(draw=_Bars(_padding, "tokens computed"), height=_by_rows(lambda facts: len(facts.names))),
    "work": _Drawing(draw=_Bars(_work, "chunks"), height=_by_rows(lambda facts: len(facts.work))),
    "phases": _Drawing(draw=_Bars(_phases, _SECONDS), height=_by_rows(lambda facts: len(facts.phases))),
    "evaluation": _Drawing(
        draw=_evaluation, height=_by_rows(lambda facts: len(facts.evaluation.systems) if facts.evaluation else 1)
    ),
}
