"""`soloist report`: a run, or two beside each other, as one file of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soloist.cli.lists import split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout

_OTHER_HELP = "A second run, to show beside the first."
_EVALUATION_HELP = """The file with what soloist eval RUN --json printed. For two runs: a file for each run, in the
order of the runs."""
_OUT_HELP = "The file to write. An older report is replaced; any other file is not."


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that soloist embed wrote.")],
    other: Annotated[Path | None, typer.Argument(metavar="RUN2", help=_OTHER_HELP)] = None,
    out: Annotated[Path, typer.Option(metavar="PATH", help=_OUT_HELP)] = Path("report.html"),
    evaluation: Annotated[list[str] | None, typer.Option(metavar="A,B", help=_EVALUATION_HELP)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write a report of a run as one HTML file that needs no network.

    It shows the leases and the memory of each device over time, rates, token lengths, batches, padding, splits, reuse,
    the time of each phase, versions, settings and notices. Each figure has a table too. The run need not be finished.
    """
    with exit_codes(debug=debug):
        with importing():
            from soloist.reports.run_report.gathering import read_evaluation
            from soloist.reports.run_report.writing import write_report
            from soloist.reports.text import bytes_text

        runs = [run_dir] if other is None else [run_dir, other]
        evaluations = [read_evaluation(Path(path)) for path in split("--evaluation", evaluation) or ()]
        write_report(runs, out, evaluations)
        with written_to_stdout("where the report is"):
            typer.echo(f"{out}: {bytes_text(out.stat().st_size)}, opens in any browser")
