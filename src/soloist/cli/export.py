"""`soloist export`: a run's vectors into the store where they are wanted."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soloist.cli.lists import split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.way_on import always
from soloist.exports import EXPORTS
from soloist.reports.text import bytes_text, one_line
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.exports.report import ExportReport

_TO_HELP = f"{', '.join([*EXPORTS][:-1])} or {[*EXPORTS][-1]}."
_VECTORS_HELP = "fused, the name of a model, or all. [default: all; for faiss the fused ones]"

_BATCH_HELP = "Rows that are sent at once: at least 1."
_TABLE_HELP = "The table or collection in a store; for pgvector also SCHEMA.NAME."

_MODELS_HELP = "For questions: copy the models' files too, for machines without a hub."
_CATALOGUE_HELP = "For questions: a TOML file of your models, if those of the run are in other places on this machine."

_TAKE_OVER_HELP = (
    "Take over what another run exported to the same folder, file or table. Without this option it stays as it is."
)


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that soloist embed wrote.")],
    to: Annotated[str, typer.Option(metavar="KIND", help=_TO_HELP)],
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The folder, or for jsonl the file, to write.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address of the server, for qdrant or pgvector.")
    ] = None,
    vectors: Annotated[str | None, typer.Option(metavar="NAME", help=_VECTORS_HELP)] = None,
    collections: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Only these collections. [default: all]")
    ] = None,
    table: Annotated[str, typer.Option(metavar="NAME", help=_TABLE_HELP)] = "soloist",
    batch_rows: Annotated[int, typer.Option(min=1, metavar="NUMBER", help=_BATCH_HELP)] = 1_000,
    take_over: Annotated[bool, typer.Option("--take-over", help=_TAKE_OVER_HELP)] = False,
    with_models: Annotated[bool, typer.Option("--with-models", help=_MODELS_HELP)] = False,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help=_CATALOGUE_HELP)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Export a finished run to files or to a store.

    Give the same command again to go on after a break, or to bring the export up to date with the run. Unchanged rows
    stay, and rows of chunks that are gone are deleted. At the end the rows are counted, and a sample of vectors is read
    back and compared. The report says where each model's vectors are. The id of a row in a store is a UUID that follows
    from the collection and the chunk's id. An export to questions has no rows: it is the folder that an application
    needs to embed questions.
    """
    with exit_codes(debug=debug, way_on=always("what was written stays, and the same command goes on")):
        with importing():
            from soloist.exports import export_run
            from soloist.reports.progress import status_line

        with status_line(sys.stderr) as show:
            found = export_run(
                run_dir, to, out=out, url=url, vectors=vectors, collections=split("--collections", collections) or (),
                table=table, batch_rows=batch_rows, take_over=take_over,
                with_models=with_models, catalogue=catalogue,
                progress=lambda done, rows: show(f"exporting: {done:,} of {count_text(rows, 'row')}"),
            )  # fmt: skip
        with written_to_stdout("the report", before=f"the export to {found.target} is done, but "):
            if as_json:
                typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
                return
            typer.echo(one_line(f"{found.target}: {_done(found)}"))
            widest = max(map(len, found.vectors))
            for name, where in found.vectors.items():
                typer.echo("  " + one_line(f"{name:<{widest}}  {where}"))
            for note in found.notes:
                typer.echo(one_line(f"note: {note}"))


def _done(found: ExportReport) -> str:
    if found.files:
        return f"{count_text(len(found.files), 'file')}, {bytes_text(sum(found.files.values()))}"
    return (
        f"{count_text(found.rows, 'row')}, {found.written:,} written, {found.unchanged:,} unchanged, {found.deleted:,} "
        f"deleted; {found.compared:,} read back and compared"
    )
