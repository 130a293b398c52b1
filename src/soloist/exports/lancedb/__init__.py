"""The export to a LanceDB table in a folder, which needs no server: metadata as columns, and columns for
vectors, sparse vectors and words. A file in the folder says how to ask the table.

Columns of metadata, told by how their names begin, and of members, by their type too, are the export's; all others are
somebody's own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from soloist.errors import ExportError
from soloist.exports.client_library import load
from soloist.exports.columns import Columns
from soloist.exports.lancedb.table import LanceTable
from soloist.exports.locks import LOCK, exclusive
from soloist.exports.report import ExportReport
from soloist.exports.rows import Source
from soloist.exports.store_folders import require_store_folder
from soloist.exports.stores import fill
from soloist.exports.target import Target

# LanceDB 0.34 has a list of its tables, which stays when they are dropped.
_LEFT = ("__manifest",)


def export(source: Source, target: Target) -> ExportReport:
    """Make the table have the rows of the run, as the only export that writes to the folder."""
    lancedb = load("lancedb", "lancedb", "lancedb")
    path = target.folder
    require_store_folder(path, "lancedb", _has_tables, left=_LEFT)
    columns = Columns.of(source, joined=True)
    with exclusive(path / LOCK, str(path)):
        try:
            store = LanceTable(lancedb.connect(str(path)), target.table, source, columns, f"{path} ({target.table})")
            report = fill(store, source, target)
            return replace(report, notes=(*report.notes, *store.describe(path)))
        except (OSError, RuntimeError, ValueError) as exc:
            raise ExportError(
                f"LanceDB at {path} failed ({' '.join(str(exc).split())[:300]}): correct that, and export again"
            ) from exc


def _has_tables(path: Path) -> bool:
    return any(path.glob("*.lance"))
