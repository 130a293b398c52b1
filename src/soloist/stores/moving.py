"""Moves a finished file from a hidden folder of a run into its place. The caller appends its record to the manifest."""

from __future__ import annotations

from soloist.stores.atomic import disk_errors, make_folder, sync_folder
from soloist.stores.layout import Layout
from soloist.stores.manifest import FileRecord
from soloist.stores.run_folder import RunFolder


def move_in(folder: RunFolder, source: RunFolder, record: FileRecord) -> None:
    """Move the file of a record from `source`, a folder inside the run's folder, to its place in the run.

    Raises:
        OutputError: the file cannot be moved, or a link leads out of the folder.
    """
    target = folder.path / record.file
    Layout(folder.path).require_inside(target)
    with disk_errors(target):
        make_folder(target.parent)
        (source.path / record.file).replace(target)
        sync_folder(target.parent)
