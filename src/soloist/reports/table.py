"""The closing table of a run, and the tables of other reports. They stay readable in a narrow terminal.

Knows rich and a run's result. Prints to the console that it gets, and reads no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from soloist.reports.text import bytes_text, compact_text, natural_order, one_line
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.engine import ModelReport, RunResult
    from soloist.engine.tally import WordsReport

PLAIN_WIDTH = 100
Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # columns, and the cells of each row

_MODEL_COLUMNS = ("model", "chunks", "tokens", "padded", "truncated", "seconds", "chunks/s")
_DEVICE_COLUMNS = ("model", "device", "share", "chunks", "peak")
RIGHT_ALIGNED = {
    "chunks", "tokens", "padded", "truncated", "seconds", "chunks/s", "share", "peak", "dim", "max tokens",
    "token budget", "tokens/s", "of fastest", "s/question",
}  # fmt: skip


def open_console(stream: TextIO) -> Console:
    """A console with a terminal's width and colours. Elsewhere it prints plain text, `PLAIN_WIDTH` columns wide."""
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        force_jupyter=False,
        color_system="auto" if terminal else None,
        width=None if terminal else PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_result(result: RunResult, console: Console) -> None:
    """The table of the models, the table of the devices, remarks, and where the files are."""
    print_tables(console, *(table for table in result_tables(result) if table[1]))
    remarks = result_remarks(result)
    for line in (*remarks, *([""] if remarks else []), *result_files(result)):
        console.print(Text(one_line(line)), soft_wrap=True)


def result_tables(result: RunResult) -> tuple[Table, Table]:
    """The table of the models, and that of the devices."""
    return (
        (_MODEL_COLUMNS, [*map(_model_row, result.models), *map(_words_row, result.words)]),
        (_DEVICE_COLUMNS, [row for model in result.models for row in _device_rows(model)]),
    )


def print_tables(console: Console, *tables: Table) -> None:
    """Tables with an empty line after each. Where the console is too narrow for one, all are blocks of lines."""
    clean = [_clean(table) for table in tables]
    are_blocks = not all(_fits(table, console.width) for table in clean)
    for table in clean:
        _print(console, table, is_blocks=are_blocks)
        console.print()


def print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with one line a row. Where the console is too narrow, each row is a block of lines.

    The first column is the heading of its block. So no word is broken to fit.
    """
    table = _clean((columns, rows))
    _print(console, table, is_blocks=not _fits(table, console.width))


def _clean(table: Table) -> Table:
    columns, rows = table
    return columns, [[one_line(cell) for cell in row] for row in rows]


def _widths(table: Table) -> list[int]:
    columns, rows = table
    return [max(cell_len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]


def _fits(table: Table, width: int) -> bool:
    widths = _widths(table)
    return sum(widths) + 2 * (len(widths) - 1) <= width


def _print(console: Console, table: Table, *, is_blocks: bool) -> None:
    columns, rows = table
    if is_blocks:
        for row in rows:
            _print_block(console, columns, row)
        return
    widths = _widths(table)
    console.print(Text(_line(columns, columns, widths), style="bold"), soft_wrap=True)
    for row in rows:
        console.print(Text(_line(columns, row, widths)), soft_wrap=True)


def _line(columns: Sequence[str], cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for name, cell, width in zip(columns, cells, widths, strict=True):
        space = " " * (width - cell_len(cell))
        padded.append(space + cell if name in RIGHT_ALIGNED else cell + space)
    return "  ".join(padded).rstrip()


def _print_block(console: Console, columns: Sequence[str], row: Sequence[str]) -> None:
    label_width = max(len(name) for name in columns[1:])
    console.print(Text(row[0], style="bold"), soft_wrap=True)
    for name, cell in zip(columns[1:], row[1:], strict=True):
        console.print(Text(f"  {name:<{label_width}}  {cell}"), soft_wrap=True)


def _model_row(model: ModelReport) -> list[str]:
    """What the model did in this session. Dashes where all its vectors were there: 0.0 chunks/s is not a rate."""
    if model.chunks and not model.embedded:
        return [model.name, f"{model.chunks:,}", *["-"] * (len(_MODEL_COLUMNS) - 2)]
    return [
        model.name,
        f"{model.chunks:,}",
        compact_text(model.tokens),
        f"{model.padding_share:.1%}",
        f"{model.truncated_rows:,}",
        f"{model.seconds:.1f}",
        f"{model.chunks_per_second:,.1f}",
    ]


def _words_row(words: WordsReport) -> list[str]:
    """What a member that is words did in this session. Its words stand where the tokens of a model do."""
    if words.chunks and not words.embedded:
        return [words.name, f"{words.chunks:,}", *["-"] * (len(_MODEL_COLUMNS) - 2)]
    done = (f"{words.seconds:.1f}", f"{words.chunks_per_second:,.1f}")
    return [words.name, f"{words.chunks:,}", compact_text(words.words), "-", "-", *done]


def _device_rows(model: ModelReport) -> list[list[str]]:
    return [
        [
            model.name,
            device,
            f"{share:.0%}",
            f"{model.rows_per_device[device]:,}",
            bytes_text(model.peak_bytes[device]) if device in model.peak_bytes else "not used",
        ]
        for device, share in sorted(model.device_shares.items(), key=lambda item: natural_order(item[0]))
    ]


def _not_embedded(model: ModelReport | WordsReport, reuse: Sequence[Path]) -> str:
    """Where the vectors came from that were not embedded in this session. `reuse` are the runs of --reuse."""
    parts = {
        "kept from an earlier session": model.kept,
        "taken from an earlier state of this run": model.reused - model.from_others,
        f"taken from {' or '.join(map(str, reuse))}": model.from_others,
        "with the text of another chunk": model.repeated,
    }
    return "".join(f", {count:,} {what}" for what, count in parts.items() if count)


def result_remarks(result: RunResult) -> list[str]:
    """Sentences with what a reader should know about the figures."""
    remarks, reuse = [], result.config.reuse
    for model in result.models:
        if model.embedded < model.chunks:
            remarks.append(f"{model.name}: {count_text(model.embedded, 'chunk')} embedded{_not_embedded(model, reuse)}")
        if model.truncated_rows:
            remarks.append(
                f"{model.name}: {count_text(model.truncated_rows, 'chunk')} longer than {model.max_tokens} tokens, "
                f"{count_text(model.truncated_tokens, 'token')} cut off"
            )
        if model.batch_sizes.splits:
            remarks.append(
                f"{model.name}: {count_text(model.batch_sizes.splits, 'batch split')}, because memory ran out"
            )
        if model.recomputed_rows:
            remarks.append(
                f"{model.name}: {count_text(model.recomputed_rows, 'row')} computed again in float32 "
                "(zero or not finite)"
            )
    for words in result.words:
        if words.embedded < words.chunks:
            cut = f"words of {count_text(words.embedded, 'chunk')} cut"
            remarks.append(f"{words.name}: {cut}{_not_embedded(words, reuse)}")
    for collection in result.collections:
        if collection.removed:
            remarks.append(
                f"{collection.name}: {count_text(collection.removed, 'chunk')} removed, no longer in the input"
            )
    skipped = sum(collection.skipped for collection in result.collections)
    if skipped:
        remarks.append(f"{count_text(skipped, 'input item')} skipped{_skip_reasons(result)}: see skipped.jsonl")
    return remarks


def _skip_reasons(result: RunResult) -> str:
    """How many of the skipped texts have no vector in which model."""
    counts: Counter[str] = Counter()
    for collection in result.collections:
        counts.update(collection.without_vector)
    return "".join(f", {count:,} of them without a vector in {model}" for model, count in counts.items())


def result_files(result: RunResult) -> list[str]:
    """The folder, how it is fused, and its files."""
    kinds = "chunks, vectors" if result.fusion is None else "chunks, vectors, fused"
    if result.words or any(model.kind != "dense" for model in result.models):
        kinds += ", index"
    collections = ", ".join(collection.name for collection in result.collections if collection.chunks)
    alone = "vectors of one model, not fused" if len(result.models) == 1 else "not fused"
    alone = alone if result.models else "words without vectors"
    fused = f"fused: {result.fusion.method}, {result.fusion.dim} dimensions" if result.fusion else alone
    return [
        f"{result.config.out}: written in {result.seconds:.1f} s, {fused}",
        "run.json, manifest.jsonl, events.jsonl, skipped.jsonl",
        f"COLLECTION/{{{kinds}}} for {collections}",
    ]
