"""The export to a Qdrant collection, on a server or in a folder: a named vector for each model and the fused one."""

from __future__ import annotations

from dataclasses import replace

from soloist.errors import ConfigError, ExportError
from soloist.exports.asking import write_beside
from soloist.exports.client_library import load
from soloist.exports.qdrant.client import FOLDER_ERRORS, first_line, opened_client, shown_url
from soloist.exports.qdrant.collection import QdrantCollection
from soloist.exports.qdrant.readme import qdrant_readme, readme_path
from soloist.exports.report import ExportReport
from soloist.exports.rows import Source
from soloist.exports.stores import fill
from soloist.exports.target import Target


def export(source: Source, target: Target) -> ExportReport:
    """Make the collection have the rows of the run.

    A folder is held by one client alone. On a server two exports into one collection at once are not noticed until
    each counts its rows.
    """
    client_module = load("qdrant_client", "qdrant", "qdrant-client")
    if (target.out is None) == (target.url is None):
        raise ConfigError("the export to qdrant needs a server or a folder of its own: give --url or --out")
    if target.url == "":
        raise ConfigError(
            "the export to qdrant has an empty --url: give the address of a server, such as http://localhost:6333"
        )
    where = shown_url(target.url) if target.url is not None else str(target.out)
    client = opened_client(client_module, target, where)
    try:
        store = QdrantCollection(client, source, target, where)
        report = fill(store, replace(source, salts=store.salts), target)
    # The client asserts that an answer has a result, which that of another service lacks.
    except (*FOLDER_ERRORS, AssertionError, client_module.http.exceptions.ApiException) as exc:
        raise ExportError(
            f"Qdrant at {where} failed ({first_line(exc)}): make sure that it runs, and export again to continue"
        ) from exc
    finally:
        client.close()
    if target.out is None or not source.ragged:
        return report
    text = qdrant_readme(source, store.vectors, target.out, target.table)
    notes = write_beside(readme_path(target.out, target.table), text)
    return replace(report, notes=(*report.notes, *notes))
