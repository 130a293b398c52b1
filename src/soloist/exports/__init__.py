"""A finished run into the store where its vectors are wanted: one module or package for each kind, behind one table.

Light to import: the help of the command line reads the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from soloist.errors import ConfigError
from soloist.exports.kinds import EXPORTS
from soloist.exports.target import BATCH_ROWS, DEFAULT_TABLE, Target
from soloist.text_lists import list_of_texts

if TYPE_CHECKING:
    from soloist.exports.members import RaggedMember
    from soloist.exports.report import ExportReport
    from soloist.exports.rows import Source

__all__ = ["EXPORTS", "Target", "export_run"]


def export_run(
    run: str | Path,
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
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> ExportReport:
    """Export a finished run, or bring what was exported up to date with it.

    Rows that are there unchanged are left, rows of chunks that are gone are deleted, and at the end the rows are
    counted and a sample of their vectors is read back and compared. What another run exported to the same target, of
    the same collections where it is a store, stays untouched unless `take_over` makes it this run's. `vectors` are
    `fused`, those of a member, or `all`; by default all, but for faiss, which has one vector a row. In a store, vectors
    that are not exported now stay for the rows whose text has. `progress` is called now and then with how many rows are
    done and how many there are.

    An export to `questions` has no rows. `with_models` copies the models' files, and a `catalogue` says where they are.

    Raises:
        ConfigError: a kind, vectors or collections that are not there, or a client library that is not installed.
        OutputError: there is no finished run, or the disk does not take the files.
        ExportError: the store fails, has a table with other dims, has what another run exported, or does not have
            what was written.
    """
    # These bring numpy and pyarrow, for which the help of the command line does not wait.
    from soloist.exports.rows import open_source
    from soloist.exports.store_folders import require_outside_runs

    kind = EXPORTS.get(to)
    if kind is None:
        raise ConfigError(f"there is no export to {to}: choose one of {', '.join(EXPORTS)}")
    if batch_rows < 1:
        raise ConfigError(f"batch_rows is {batch_rows}: give a number of rows of 1 or more")
    if vectors is not None and not isinstance(vectors, str):
        raise ConfigError(f"vectors is {vectors!r}: give one name, such as 'fused', or 'all'")
    if with_models and kind.rows:
        raise ConfigError(f"an export to {to} has no models: leave out --with-models, or export to questions")
    collections = list_of_texts("collections", collections, "names")
    if out is not None:
        require_outside_runs(Path(out))
    source = open_source(Path(run), vectors, collections, several=kind.several, kinds=kind.kinds)
    source = replace(source, progress=lambda done: progress(done, source.rows))
    source.progress(0)
    target = Target(
        out=Path(out) if out is not None else None, url=url, table=table, batch_rows=batch_rows, take_over=take_over,
        with_models=with_models, catalogue=Path(catalogue) if catalogue is not None else None,
    )  # fmt: skip
    export: Callable[[Source, Target], ExportReport] = import_module(f"soloist.exports.{kind.module}").export
    report = export(source, target)
    return replace(
        report, notes=(*(_left_out(to, name, member) for name, member in source.left_out.items()), *report.notes)
    )


def _left_out(to: str, name: str, member: RaggedMember) -> str:
    from soloist.exports.members import WHAT

    return f"{name} is left out, because an export to {to} has no place for {WHAT[member.kind]}"
